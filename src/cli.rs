//! The command line, as clap reads it. The help is where a newcomer learns: every command says what it does, what comes
//! back, and shows a line to copy.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  steady up                                  a whole system on this machine: an edge, two hosts, two applications
  steady deploy ./shop --name shop           run a folder; it answers at http://shop.localhost:8080
  steady move shop --to h2                   to another host, without losing a request
  steady logs shop -f                        what it prints, as it prints it
  steady --dir /var/lib/steady/lb hosts      the same commands on an edge's machine, as root
  steady --address 10.0.0.9:9900 --ca ca.pem --token-file token hosts
                                             and from another one, over TLS

Exit codes:
  0  done
  1  tried and failed; the message says at which step, and everything is as it was before
  2  the command line, or what it names (a folder, a file), is not right
  3  there is no application or host of that name
  4  no answer: nothing runs there, or the token is refused
  5  refused: it conflicts with what is going on (another `up`, another move)
  6  not over, or nobody knows: the edge stops or is replaced and goes on later, or its answer broke off. Do not repeat it
     unseen: `steady apps` shows how things stand";

/// Serve applications under wildcard domains from a pool of machines.
#[derive(Debug, Parser)]
#[command(name = "steady", version, after_help = EXAMPLES, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub reach: Reach,

    /// Print JSON for programs: one document, or one line a step for work that takes time
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

/// The directory of `up` unless told otherwise.
pub const DIR: &str = "./.steady";

/// Which system a command talks to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which system")]
pub struct Reach {
    /// State directory of a system started by `steady up`, or of an edge on this machine
    #[arg(long, global = true, env = "STEADY_DIR", default_value = DIR, value_name = "DIR")]
    pub dir: PathBuf,

    /// Private address of an edge, instead of --dir
    #[arg(long, global = true, env = "STEADY_ADDRESS", value_name = "IP:PORT")]
    pub address: Option<String>,

    /// Certificate of the cluster's authority (cluster/ca.pem of the edge's state directory), for --address over TLS. Without
    /// it only an edge on this machine is spoken to
    #[arg(long, global = true, env = "STEADY_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// The token for --address
    #[arg(long, global = true, env = "STEADY_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// File that holds the token for --address
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole system on this machine; Ctrl-C stops it
    Up(UpArgs),
    /// Run a folder as an application, or a new version of one
    Deploy(DeployArgs),
    /// List the applications: where each one runs, and how it is
    Apps,
    /// List the hosts: the machines that run applications; remove one that is gone
    Hosts(HostsArgs),
    /// Show what happened to applications, as their hosts told: started, ready, crashed, drained
    Events(EventsArgs),
    /// Show what an application printed (stdout and stderr together)
    Logs(LogsArgs),
    /// Move an application to another host without losing a request
    Move(MoveArgs),
    /// List the requests under way, the oldest first; end one of them
    Requests(RequestsArgs),
    /// Follow the requests of an application closely: attempts, probes, waiting, where the time went
    Trace(TraceArgs),
    /// Remove an application
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Watch hosts and applications live: rates, errors, latencies
    Top(TopArgs),
    /// Make a join token, by which a new host becomes a member of the cluster
    JoinToken(JoinTokenArgs),
    /// Show how the edge is: version, driver, listeners, counts
    Status,
    /// Be an edge: the load balancer daemon
    #[command(
        after_help = "Example:\n  steady lb --config /etc/steady/lb.toml --check && steady lb --config /etc/steady/lb.toml\n\nSIGHUP reads the configuration again, SIGUSR2 starts the program anew and lets it take over (as --upgrade does), SIGTERM drains."
    )]
    Lb(LbArgs),
    /// Be a host: the agent daemon
    #[command(
        after_help = "Example:\n  steady agent --config /etc/steady/agent.toml --check && steady agent --config /etc/steady/agent.toml"
    )]
    Agent(DaemonArgs),
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  steady up                                        then open http://hello.localhost:8080
  steady up --http 127.0.0.1:0 --https 127.0.0.1:0 --private 127.0.0.1:0 --dir /tmp/s
                                                   a second system beside it, on ports that are free;
                                                   /tmp/s/up.json says which
  steady up --hosts 4 --workers 1 --io epoll       four hosts, one worker each, without io_uring

While it runs, DIR/up.json says where everything is. Applications and their logs stay in DIR for the next `up`.")]
pub struct UpArgs {
    /// Public address for http (port 0: any free one)
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub http: SocketAddr,

    /// Public address for https
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDR")]
    pub https: SocketAddr,

    /// Address of the private API
    #[arg(long, default_value = "127.0.0.1:9900", value_name = "ADDR")]
    pub private: SocketAddr,

    /// How many hosts: h1, h2, ...
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub hosts: u16,

    /// Workers of the edge and of each host; 0: one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub workers: u16,

    /// Reach the hosts in the clear, by their tokens, rather than over mutual TLS as members of a cluster
    #[arg(long)]
    pub plain_hosts: bool,

    /// How bytes move: io_uring, epoll, or whichever this machine allows
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub io: Io,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Io {
    Auto,
    Uring,
    Epoll,
}

impl Io {
    /// As the daemons' configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Io::Auto => "auto",
            Io::Uring => "uring",
            Io::Epoll => "epoll",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady deploy .                                  the name is steady.toml's `name`, else the folder's
  steady deploy ./shop --name shop --host h2       on that host

The folder is the application. With an index.ts (or a package.json whose `main` names a file) it runs on Bun and needs
nothing else; any other program says how it starts in steady.toml: command = [\"./server\", \"--port\", \"$PORT\"].
Left out of what is sent: .git, .hg, .svn, .steady, __pycache__, .DS_Store, and what .steadyignore names (the syntax of
.gitignore). node_modules is sent: hosts install nothing.")]
pub struct DeployArgs {
    /// The application's folder
    pub path: PathBuf,

    /// The application's name: a-z, 0-9 and inner dashes, at most 63
    #[arg(long)]
    pub name: Option<String>,

    /// The host to run it on [default: where it is; a new one goes to the least loaded]
    #[arg(long)]
    pub host: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady hosts                                     how each is, where, what it can carry
  steady hosts rm h3                               it is gone for good

ZONE and CAPACITY are what a host says when it registers: zone of its configuration; [apps] apps_max, and what its
machine has.")]
pub struct HostsArgs {
    #[command(subcommand)]
    pub command: Option<HostsCommand>,
}

#[derive(Debug, Subcommand)]
pub enum HostsCommand {
    /// Forget a host that is gone for good: its agent has stopped and no application is placed there
    #[command(
        visible_aliases = ["remove", "forget"],
        after_help = "Example:\n  steady move shop --to h2 && steady hosts rm h3\n\nRefused while it is up or applications are placed there. A host that comes back registers anew."
    )]
    Rm {
        /// The host's name
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady events                                    the latest of all applications
  steady events shop -f                            of one, as they come, until Ctrl-C
  steady events --host h2 -n 1000 --json | jq 'select(.event == \"crashed\") | .reason'

The edge keeps the last ten thousand.")]
pub struct EventsArgs {
    /// Only of this application
    pub name: Option<String>,

    /// Only of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,

    /// Go on: show events as they come, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,

    /// Begin with this many of the latest
    #[arg(long, short = 'n', default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub lines: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  steady logs shop --lines 50\n  steady logs shop -f | grep -i error")]
pub struct LogsArgs {
    pub name: String,

    /// Go on: show lines as they are printed, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,

    /// Begin with this many of the latest lines
    #[arg(long, short = 'n', default_value_t = 100, value_name = "N")]
    pub lines: u32,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  steady move shop --to h2\n  steady move shop --to h2 --force     its host is dead and will not come back by itself\n\nReturns when the move is complete. If it fails before the hand-over, the application stays where it was."
)]
pub struct MoveArgs {
    pub name: String,

    /// The host that it goes to (see `steady hosts`)
    #[arg(long, value_name = "HOST")]
    pub to: String,

    /// Do not wait for a host that is down: what an exclusive application had written there and nowhere else is lost, and
    /// the host must not come back with its network cut (docs/moves.md)
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady requests                                  the oldest hundred of all
  steady requests shop --older 30s                 what hangs
  steady requests --cut 4f6a0c7e2b9d4a1e           end it: 503, or cut off where the answer has begun

STATE is parked (waits for the application), connecting, waiting (for the answer), answering, or replying (from here).
The id is the X-Request-Id that the application and both logs have.")]
pub struct RequestsArgs {
    /// Only those of this application
    pub name: Option<String>,

    /// Only those that go to this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,

    /// Only those that are under way for longer (10s, 2m)
    #[arg(long, value_name = "TIME")]
    pub older: Option<String>,

    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: u32,

    /// End the request with this id
    #[arg(long, value_name = "ID", conflicts_with_all = ["name", "host", "older"])]
    pub cut: Option<String>,

    /// Ask this host's agent instead of the edge
    #[arg(long, value_name = "HOST", conflicts_with = "host")]
    pub at: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady trace shop                                its next hundred requests, within a minute
  steady trace shop --client 203.0.113.7 --for 10m
  steady trace shop --at h1                        as its host sees them

A request is shown when it is over. Names of header fields are shown, never their values. Ctrl-C ends the trace.")]
pub struct TraceArgs {
    pub name: String,

    /// Only the request with this id
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,

    /// Only requests from this address
    #[arg(long, value_name = "IP")]
    pub client: Option<std::net::IpAddr>,

    /// For how long, an hour at most
    #[arg(long = "for", default_value = "60s", value_name = "TIME")]
    pub time: String,

    /// End after so many, a thousand at most
    #[arg(long, short = 'n', default_value_t = 100, value_name = "N")]
    pub requests: u32,

    /// Ask this host's agent instead of the edge
    #[arg(long, value_name = "HOST", conflicts_with = "client")]
    pub at: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady top                        live, until q
  steady top --once                 one look, as text; also what comes when the output is no terminal
  steady top --json | jq '.apps[] | {name, p99: .\"10s\".total.p99_us}'

Keys: ↑ ↓ select, enter details, esc back, s sort by the next column, / filter by name, space pause, q quit.
Rates and percentiles are of the last 10 seconds; a request's time is from its head at the edge to its response's.")]
pub struct TopArgs {
    /// Look once and end
    #[arg(long)]
    pub once: bool,

    /// List this many applications: the busiest
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub apps: u16,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady join-token > token                        for one host, within the hour; put it where the host's [join] says
  steady join-token --host h7 --ttl 10m            for the host h7 and no other
  steady join-token --list                         those that are still good, without what would let anybody in
  steady join-token --revoke 3f9c01ab77de

Whoever has a token that is still good can become a host: hand it over as you would a password (docs/security.md).")]
pub struct JoinTokenArgs {
    /// How long it is good, such as 10m, 1h, 24h
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_ttl)]
    pub ttl: std::time::Duration,

    /// How many hosts it lets in
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub uses: u32,

    /// The only host that may use it
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,

    /// List those that are still good, and make none
    #[arg(long, conflicts_with_all = ["uses", "host", "ttl", "revoke"])]
    pub list: bool,

    /// End one before its time, by its id (see --list)
    #[arg(long, value_name = "ID", conflicts_with_all = ["uses", "host", "ttl"])]
    pub revoke: Option<String>,
}

fn parse_ttl(text: &str) -> Result<std::time::Duration, String> {
    steady_sys::text::parse_duration(text).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  steady rm shop\n\nIts requests finish first; then its process stops, and its files and logs are removed."
)]
pub struct RmArgs {
    pub name: String,
}

#[derive(Debug, Args)]
pub struct LbArgs {
    #[command(flatten)]
    pub daemon: DaemonArgs,

    /// Take the place of the edge that runs in the same state directory, without losing a connection
    #[arg(long, conflicts_with = "check")]
    pub upgrade: bool,
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The daemon's configuration (docs/configuration.md)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Read the configuration, say everything that is wrong with it, and exit
    #[arg(long)]
    pub check: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_listens_on_loopback_with_two_hosts_unless_told_otherwise() {
        let Command::Up(args) = Cli::parse_from(["steady", "up"]).command else { panic!("not up") };
        assert_eq!(args.http.to_string(), "127.0.0.1:8080");
        assert_eq!(args.https.to_string(), "127.0.0.1:8443");
        assert_eq!(args.private.to_string(), "127.0.0.1:9900");
        assert_eq!((args.hosts, args.workers, args.io), (2, 0, Io::Auto));
    }

    #[test]
    fn dir_and_json_are_taken_before_and_after_the_command() {
        for line in [["steady", "--json", "--dir", "/x", "apps"], ["steady", "apps", "--dir", "/x", "--json"]] {
            let cli = Cli::parse_from(line);
            assert!(cli.json);
            assert_eq!(cli.reach.dir, PathBuf::from("/x"));
        }
    }
}
