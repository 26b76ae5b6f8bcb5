//! The book of join tokens: what of each is kept (its hash, never its secret), and who may spend it. Pure; the store keeps
//! it as text.

use serde::{Deserialize, Serialize};
use steady_cluster::{Fingerprint, JoinToken, hex, same, token, unhex};

use crate::store::Millis;

/// Tokens that are good at one moment. Each is compared with every join.
pub const TOKENS_MAX: usize = 1_000;
/// Hosts that one token lets in.
pub const USES_MAX: u32 = 1_000;
/// A token that lies about is a way in: it ends by itself.
pub const TTL_MAX_MS: Millis = 30 * 24 * 60 * 60 * 1000;
/// Digits of a hash that tell one token from another.
const ID_DIGITS: usize = 12;

/// What is kept of one token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// SHA-256 of its secret, in hexadecimal.
    hash: String,
    /// The only host it is for.
    pub host: Option<String>,
    pub made: Millis,
    pub until: Millis,
    pub uses: u32,
    /// Hashes of the names and signing requests it was spent on: the same again is the same host whose answer was lost.
    spent: Vec<String>,
}

impl Entry {
    /// How people name it. Says nothing about the secret.
    pub fn id(&self) -> &str {
        self.hash.get(..ID_DIGITS).unwrap_or_default()
    }

    pub fn uses_left(&self) -> u32 {
        self.uses.saturating_sub(self.spent.len() as u32)
    }
}

/// The book.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    entries: Vec<Entry>,
}

/// What a token shall be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub ttl_ms: Millis,
    pub uses: u32,
    pub host: Option<String>,
}

/// Why a token does not let somebody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing tells which: who guesses learns nothing.
    #[error("the join token is unknown, over, spent or revoked; make another with `steady join-token`")]
    NoToken,
    #[error(
        "this join token is for the host {0:?}; give this host that name, or make another with `steady join-token`"
    )]
    OtherHost(String),
}

impl Tokens {
    /// Enters a token and gives back its id.
    ///
    /// # Errors
    /// What is wrong with what is wanted.
    pub fn add(&mut self, token: &JoinToken, wanted: Wanted, now: Millis) -> Result<Entry, String> {
        if wanted.ttl_ms == 0 || wanted.ttl_ms > TTL_MAX_MS {
            return Err("a join token is good for more than nothing and at most 30 days".into());
        }
        if wanted.uses == 0 || wanted.uses > USES_MAX {
            return Err(format!("a join token lets in 1 to {USES_MAX} hosts"));
        }
        self.prune(now);
        if self.entries.len() >= TOKENS_MAX {
            return Err(format!("{TOKENS_MAX} join tokens are good now: revoke those that nobody needs"));
        }
        let entry = Entry {
            hash: hex(&token.hash()),
            host: wanted.host,
            made: now,
            until: now.saturating_add(wanted.ttl_ms),
            uses: wanted.uses,
            spent: Vec::new(),
        };
        self.entries.push(entry.clone());
        Ok(entry)
    }

    /// Those that are still good for something.
    pub fn list(&self, now: Millis) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.is_good(now) && entry.uses_left() > 0)
    }

    /// `false`: there is none of this id.
    pub fn revoke(&mut self, id: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.id() != id);
        self.entries.len() < before
    }

    /// Lets `host` in for this secret and signing request, and takes one use of the token for it. `true`: the book changed.
    ///
    /// # Errors
    /// Every entry is compared, in a time that depends on their number alone.
    pub fn spend(&mut self, secret: &str, host: &str, request: &Fingerprint, now: Millis) -> Result<bool, Refused> {
        let given = token::hash(secret);
        let mut found = None;
        for (at, entry) in self.entries.iter().enumerate() {
            let known: Fingerprint = unhex(&entry.hash).unwrap_or_default();
            if same(&given, &known) {
                found = Some(at);
            }
        }
        let entry = found.and_then(|at| self.entries.get_mut(at)).filter(|entry| entry.is_good(now));
        let entry = entry.ok_or(Refused::NoToken)?;
        if let Some(only) = entry.host.as_ref().filter(|only| *only != host) {
            return Err(Refused::OtherHost(only.clone()));
        }
        // Of both: who has joined may not come back with the same request as somebody else.
        let use_of_it = hex(&token::hash(&format!("{host}\n{}", hex(request))));
        if entry.spent.contains(&use_of_it) {
            return Ok(false);
        }
        if entry.uses_left() == 0 {
            return Err(Refused::NoToken);
        }
        entry.spent.push(use_of_it);
        Ok(true)
    }

    fn prune(&mut self, now: Millis) {
        self.entries.retain(|entry| entry.is_good(now));
    }
}

impl Entry {
    /// A clock that went back behind its making does not prolong it for ever: it is good for as long as it was made for,
    /// before and after that moment.
    fn is_good(&self, now: Millis) -> bool {
        let life = self.until.saturating_sub(self.made);
        now < self.until && now.saturating_add(life) >= self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    fn wanted(uses: u32, host: Option<&str>) -> Wanted {
        Wanted { ttl_ms: HOUR, uses, host: host.map(str::to_owned) }
    }

    fn token(book: &mut Tokens, uses: u32, host: Option<&str>) -> JoinToken {
        let token = JoinToken::new([1; 32]);
        book.add(&token, wanted(uses, host), 10 * HOUR).unwrap();
        token
    }

    #[test]
    fn a_token_lets_in_as_many_hosts_as_it_has_uses_and_the_same_request_again() {
        let mut book = Tokens::default();
        let one = token(&mut book, 1, None);
        let two = token(&mut book, 2, None);
        let now = 10 * HOUR + 1;
        assert_eq!(book.spend(&one.secret(), "h1", &[1; 32], now), Ok(true));
        assert_eq!(book.spend(&one.secret(), "h1", &[1; 32], now), Ok(false), "its answer was lost");
        assert_eq!(book.spend(&one.secret(), "h2", &[1; 32], now), Err(Refused::NoToken), "by another name");
        assert_eq!(book.spend(&one.secret(), "h2", &[2; 32], now), Err(Refused::NoToken));
        assert_eq!(book.spend(&two.secret(), "h2", &[2; 32], now), Ok(true));
        assert_eq!(book.spend(&two.secret(), "h3", &[3; 32], now), Ok(true));
        assert_eq!(book.spend(&two.secret(), "h4", &[4; 32], now), Err(Refused::NoToken));
        assert_eq!(book.list(now).count(), 0);
    }

    #[test]
    fn a_token_ends_is_revoked_and_may_be_for_one_host() {
        let mut book = Tokens::default();
        let h1 = token(&mut book, 5, Some("h1"));
        let any = token(&mut book, 5, None);
        let now = 10 * HOUR;
        assert_eq!(book.spend(&h1.secret(), "h2", &[1; 32], now), Err(Refused::OtherHost("h1".into())));
        assert_eq!(book.spend(&h1.secret(), "h1", &[1; 32], now), Ok(true));
        assert_eq!(book.spend(&h1.secret(), "h1", &[2; 32], 11 * HOUR), Err(Refused::NoToken), "over");
        assert_eq!(
            book.spend(&h1.secret(), "h1", &[2; 32], 8 * HOUR),
            Err(Refused::NoToken),
            "a clock that fell far back"
        );
        let id = book.list(now).find(|entry| entry.host.is_none()).unwrap().id().to_owned();
        assert!(book.revoke(&id));
        assert!(!book.revoke(&id));
        assert_eq!(book.spend(&any.secret(), "h1", &[3; 32], now), Err(Refused::NoToken));
        assert_eq!(book.spend("", "h1", &[3; 32], now), Err(Refused::NoToken));
    }

    #[test]
    fn what_is_kept_does_not_hold_the_secret() {
        let mut book = Tokens::default();
        let token = token(&mut book, 1, None);
        let text = serde_json::to_string(&book).unwrap();
        assert!(!text.contains(&token.secret()));
        assert_eq!(serde_json::from_str::<Tokens>(&text).unwrap(), book);
    }

    #[test]
    fn tokens_have_bounds_in_number_time_and_uses_and_those_that_are_over_make_room() {
        let mut book = Tokens::default();
        let odd = [(0, 1), (TTL_MAX_MS + 1, 1), (HOUR, 0), (HOUR, USES_MAX + 1)];
        for (ttl_ms, uses) in odd {
            book.add(&JoinToken::new([1; 32]), Wanted { ttl_ms, uses, host: None }, 0).unwrap_err();
        }
        for _ in 0..TOKENS_MAX {
            token(&mut book, 1, None);
        }
        book.add(&JoinToken::new([1; 32]), wanted(1, None), 10 * HOUR).unwrap_err();
        book.add(&JoinToken::new([1; 32]), wanted(1, None), 12 * HOUR).unwrap();
    }
}
