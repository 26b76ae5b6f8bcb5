//! A whole message in a form that can be compared and sent on.

use steady_http::{Event, Field, Head, Name, StreamId};

/// What a head says, its fields sorted and its cookies one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub start: String,
    pub length: Option<u64>,
    pub fields: Vec<(String, String)>,
}

impl Said {
    pub fn of(head: &Head) -> Said {
        let text = |octets: &[u8]| octets.escape_ascii().to_string();
        let start = format!(
            "{} {} {:?} {} {} {}",
            head.status,
            text(head.method_bytes()),
            head.scheme,
            text(head.authority()),
            text(head.path()),
            text(head.protocol()),
        );
        let mut fields: Vec<_> =
            head.fields().filter(|it| it.id != Name::Cookie).map(|it| (text(it.name), text(it.value))).collect();
        if head.get(Name::Cookie).is_some() {
            // Empty crumbs say nothing.
            let cookies: Vec<_> = head.all(Name::Cookie).filter(|crumb| !crumb.is_empty()).map(text).collect();
            fields.push(("cookie".to_owned(), cookies.join("; ")));
        }
        fields.sort();
        Said { start, length: head.content_length, fields }
    }
}

/// One message as it came in.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub stream: Option<StreamId>,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Option<Head>,
    pub whole: bool,
}

impl Message {
    /// Takes in an event of this message's stream.
    pub fn take(&mut self, event: &Event<'_>, head: &Head) {
        match event {
            Event::Head { stream, end } => {
                *self = Message { stream: Some(*stream), head: head.clone(), whole: *end, ..Message::default() };
            }
            Event::Data { data, end, .. } => {
                self.body.extend_from_slice(data);
                self.whole = *end;
            }
            Event::Trailers { .. } => {
                self.trailers = Some(head.clone());
                self.whole = true;
            }
            _ => {}
        }
    }

    /// Its trailers but for those that HTTP/1.1's codec drops: what survives every hop is what it read.
    pub fn trailer_fields(&self) -> Vec<(String, String)> {
        self.trailers.as_ref().map(|trailers| Said::of(trailers).fields).unwrap_or_default()
    }
}

/// Whether the codecs send this field on at all.
pub fn is_carried(field: &Field<'_>) -> bool {
    !matches!(
        field.id,
        Name::Connection | Name::KeepAlive | Name::ProxyConnection | Name::TransferEncoding | Name::Upgrade
    )
}
