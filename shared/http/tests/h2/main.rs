//! HTTP/2 from outside: RFC 9113 rule by rule, abuse, round trips, and the `h2` crate as the other side.

mod abuse;
mod client_rules;
mod crate_h2;
mod numbers;
mod round_trip;
mod server_rules;
mod support;
