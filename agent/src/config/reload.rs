//! What another version of the configuration changes: now, or at the next start.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use super::{AppsConfig, Config};

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
            "apps.bun" => apps.bun;
            "apps.queue_max" => apps.queue_max;
            "apps.queue_wait" => apps.queue_wait;
            "apps.start_timeout" => apps.start_timeout;
            "apps.stop_timeout" => apps.stop_timeout;
            "apps.drain_timeout" => apps.drain_timeout;
            "apps.response_timeout" => apps.response_timeout;
            "apps.apps_max" => apps.apps_max;
            "timeouts" => timeouts;
            "limits" => bounds;
            "log.level" => log.level;
        }
        note_restart! {
            "name" => name;
            "zone" => zone;
            "faults" => faults;
            "state_dir" => state_dir;
            "workers" => workers;
            "io" => io;
            "data.addr" => data_addr;
            "control.addr" => control_addr;
            "control.token_file" => token_file;
            "join" => join;
            "apps.log_bytes_max" => apps.log_bytes_max;
            "apps.log_files_max" => apps.log_files_max;
            "bundles" => bundles;
            "log.requests" => log.requests;
            "log.format" => log.format;
        }
        Reload { effective, live, restart }
    }
}

/// `[apps]` as it is in force.
#[derive(Debug)]
pub struct Live {
    apps: RwLock<Arc<AppsConfig>>,
    changed: Notify,
}

impl Live {
    pub fn new(apps: AppsConfig) -> Live {
        Live { apps: RwLock::new(Arc::new(apps)), changed: Notify::new() }
    }

    pub fn get(&self) -> Arc<AppsConfig> {
        Arc::clone(&self.apps.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set(&self, apps: AppsConfig) {
        *self.apps.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(apps);
        self.changed.notify_one();
    }

    /// Until it is set again.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "name = \"h1\"\nstate_dir = \"/s\"\n[data]\naddr = \"127.0.0.1:1\"\n[control]\naddr = \"127.0.0.1:2\"\n";

    #[test]
    fn limits_and_the_log_level_change_while_running_and_the_rest_waits_and_is_named() {
        let old: Config = FILE.parse().unwrap();
        let new: Config = format!(
            "workers = 3\n{}[apps]\nqueue_max = 7\nlog_files_max = 9\nstart_timeout = \"3s\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n",
            FILE.replace(":2", ":3")
        )
        .parse()
        .unwrap();
        let reload = old.reload(&new);
        assert_eq!(reload.live, ["apps.queue_max", "apps.start_timeout", "log.level"]);
        assert_eq!(reload.restart, ["workers", "control.addr", "apps.log_files_max", "log.format"]);
        assert_eq!((reload.effective.apps.queue_max, reload.effective.apps.log_files_max), (7, 5));
        let bounded: Config = format!("{FILE}[limits]\nexchanges_max = 5\n").parse().unwrap();
        assert_eq!(old.reload(&bounded).live, ["limits"]);
        let joins = format!("{FILE}[join]\nedges = [\"127.0.0.1:3\"]\n").parse().unwrap();
        assert_eq!(old.reload(&joins).restart, ["join"]);
        let nothing = new.reload(&new);
        assert_eq!((nothing.live.len(), nothing.restart.len()), (0, 0));
    }
}
