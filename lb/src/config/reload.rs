//! What another version of the configuration changes: now, or at the next start.

use super::Config;

/// The outcome of reading the file again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What runs from now on: the old configuration with everything that may change while running taken from the new one.
    pub effective: Config,
    /// Keys whose new value took effect.
    pub live: Vec<&'static str>,
    /// Keys whose new value waits for a restart.
    pub restart: Vec<&'static str>,
}

impl Config {
    /// Sorts the differences between this configuration and `new`.
    pub fn reload(&self, new: &Config) -> Reload {
        let mut effective = self.clone();
        let (mut live, mut restart) = (Vec::new(), Vec::new());
        macro_rules! take_live {
            ($($key:literal => $($field:ident).+;)*) => {$(
                if self.$($field).+ != new.$($field).+ {
                    effective.$($field).+ = new.$($field).+.clone();
                    live.push($key);
                }
            )*};
        }
        macro_rules! note_restart {
            ($($key:literal => $($field:ident).+;)*) => {$(
                if self.$($field).+ != new.$($field).+ {
                    restart.push($key);
                }
            )*};
        }
        take_live! {
            "domains" => domains;
            "reserved" => reserved;
            "host" => hosts;
            "timeouts" => timeouts;
            "health" => health;
            "breaker" => breaker;
            "limits" => bounds;
            "limits.bundle_bytes_max" => bundle_bytes_max;
            "forwarded" => forwarded;
            "log.level" => log.level;
        }
        note_restart! {
            "state_dir" => state_dir;
            "workers" => workers;
            "io" => io;
            "listen" => listen;
            "tls" => tls;
            "private" => private;
            "cluster" => cluster;
            "faults" => faults;
            "log.access" => log.access;
            "log.format" => log.format;
        }
        Reload { effective, live, restart }
    }
}
