//! Every reason for which a request is answered from here, and the one function that maps it to a status, a metric, a
//! title and what to do next.

use std::time::Duration;

/// Why a request got no answer from an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The request broke HTTP's rules; the codec gave the status.
    BadRequest { status: u16 },
    /// The authority is malformed.
    BadAuthority,
    /// No application has this name.
    NoSuchApp,
    /// The domain is not served here.
    NotOurs,
    /// The connection's certificate does not serve this authority.
    Misdirected,
    /// The host that runs the application is down.
    HostDown,
    /// No connection to the upstream.
    ConnectFailed,
    /// The upstream could not prove who it is, or did not take us for who we are.
    UpstreamTls,
    /// The upstream broke before it answered.
    UpstreamBroken,
    /// The upstream's answer broke HTTP's rules.
    BadResponse,
    /// The application cannot run until somebody changes something.
    AppFailed,
    /// No answer in time.
    ResponseTimeout,
    /// The exchange took longer than allowed in all.
    TotalTimeout,
    /// The request's head or body did not come in time.
    RequestTimeout,
    /// It waited too long for the application to be there.
    ParkTimeout,
    /// Too many wait already.
    QueueFull,
    /// This worker has as many waiting as it may.
    ParkingFull,
    /// The upstream refused it, each time.
    Refused,
    /// Not an owner of the application: only between agents and edges.
    NotOwner,
    /// This side is shutting down.
    Draining,
    /// An operator ended it, or the drain of its application did.
    Cut,
    /// This worker has too much to do.
    Overloaded,
    /// The method is not served (plain CONNECT, TRACE).
    MethodRefused,
}

/// Who should try again, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub status: u16,
    /// The label in metrics and logs.
    pub name: &'static str,
    pub title: &'static str,
    pub detail: &'static str,
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// One of each, for tables of counters.
    pub const ALL: [Refusal; 23] = [
        Refusal::BadRequest { status: 400 },
        Refusal::BadAuthority,
        Refusal::NoSuchApp,
        Refusal::NotOurs,
        Refusal::Misdirected,
        Refusal::HostDown,
        Refusal::ConnectFailed,
        Refusal::UpstreamTls,
        Refusal::UpstreamBroken,
        Refusal::BadResponse,
        Refusal::AppFailed,
        Refusal::ResponseTimeout,
        Refusal::TotalTimeout,
        Refusal::RequestTimeout,
        Refusal::ParkTimeout,
        Refusal::QueueFull,
        Refusal::ParkingFull,
        Refusal::Refused,
        Refusal::NotOwner,
        Refusal::Draining,
        Refusal::Cut,
        Refusal::Overloaded,
        Refusal::MethodRefused,
    ];

    /// Its place in [`Refusal::ALL`].
    pub fn index(self) -> usize {
        let kind = std::mem::discriminant(&self);
        Refusal::ALL.iter().position(|other| std::mem::discriminant(other) == kind).unwrap_or(0)
    }

    /// The mapping.
    pub const fn explain(self) -> Explanation {
        let (status, name, title, detail) = match self {
            Refusal::BadRequest { status } => (
                status,
                "bad_request",
                "The request is malformed",
                "The request breaks the rules of HTTP, or a limit on its size. Correct the client that sent it.",
            ),
            Refusal::BadAuthority => {
                (400, "bad_authority", "The host name is malformed", "Check the Host field of the request.")
            }
            Refusal::NoSuchApp => (
                404,
                "no_such_app",
                "There is no application of this name",
                "Check the spelling of the address. A new application appears as soon as it has been deployed.",
            ),
            Refusal::NotOurs => (
                404,
                "not_ours",
                "This domain is not served here",
                "Check the address, or add the domain to this edge.",
            ),
            Refusal::Misdirected => (
                421,
                "misdirected",
                "This connection cannot be used for that name",
                "The certificate of this connection does not cover the name that was asked for. Open a new connection.",
            ),
            Refusal::HostDown => (
                502,
                "host_down",
                "The machine of this application is down",
                "It is known, and the application will answer again when the machine is back or the application has moved.",
            ),
            Refusal::ConnectFailed => (
                502,
                "connect_failed",
                "The application could not be reached",
                "No connection could be made. Try again in a moment.",
            ),
            Refusal::UpstreamTls => (
                502,
                "upstream_tls",
                "The application's machine could not be verified",
                "The secure connection to it did not come about; nothing was sent. Try again later.",
            ),
            Refusal::UpstreamBroken => (
                502,
                "upstream_broken",
                "The application broke off",
                "The connection ended before an answer came. It may have processed the request.",
            ),
            Refusal::BadResponse => (
                502,
                "bad_response",
                "The application's answer is malformed",
                "The application answered against the rules of HTTP. Its author finds more in its log.",
            ),
            Refusal::AppFailed => (
                502,
                "app_failed",
                "The application does not run",
                "It could not be started. Its author finds the reason in its log.",
            ),
            Refusal::ResponseTimeout => {
                (504, "response_timeout", "The application did not answer in time", "Try again later.")
            }
            Refusal::TotalTimeout => {
                (504, "total_timeout", "The application did not finish in time", "Try again later.")
            }
            Refusal::RequestTimeout => {
                (408, "request_timeout", "The request did not arrive in time", "Send the whole request sooner.")
            }
            Refusal::ParkTimeout => (
                503,
                "park_timeout",
                "The application is not there yet",
                "It is starting or moving and did not get ready in time. Try again.",
            ),
            Refusal::QueueFull => (
                503,
                "queue_full",
                "Too many requests wait for this application",
                "It is starting, moving or busy. Try again.",
            ),
            Refusal::ParkingFull => (
                503,
                "parking_full",
                "Too many requests wait",
                "The application is starting or moving, and this server holds as many waiting requests as it may. Try again.",
            ),
            Refusal::Refused => (
                503,
                "refused",
                "The application's machine refused the request",
                "It was not processed and can be sent again.",
            ),
            Refusal::NotOwner => {
                (421, "not_owner", "Not here", "This host does not own the application in this generation.")
            }
            Refusal::Draining => (503, "draining", "This server is going away", "Send the request again."),
            Refusal::Cut => (
                503,
                "cut",
                "The request was cut",
                "This server or its application is leaving, an operator ended it, or it held too much memory. It may have been \
                 processed.",
            ),
            Refusal::Overloaded => (503, "overloaded", "This server is overloaded", "Try again."),
            Refusal::MethodRefused => {
                (405, "method_refused", "This method is not served", "CONNECT and TRACE are not forwarded.")
            }
        };
        let retry_after = match (self, status) {
            // Whether it may be sent again is the client's to judge.
            (Refusal::Cut, _) => None,
            (_, 503) => Some(Duration::from_secs(1)),
            _ => None,
        };
        Explanation { status, name, title, detail, retry_after }
    }

    /// The status.
    pub const fn status(self) -> u16 {
        self.explain().status
    }
}
