use super::*;

const FULL: &str = r#"
state_dir = "/var/lib/steady/lb"
workers = 0
io = "auto"
domains = ["steady.page", "steady.sh", "localhost"]

[[listen]]
addr = "0.0.0.0:80"
tls = false
proxy_protocol = false

[[listen]]
addr = "0.0.0.0:443"
tls = true

[tls]
dir = "/etc/steady/certs"
tickets = true

[private]
addr = "127.0.0.1:9900"
token_file = "/var/lib/steady/lb/token"

[[host]]
name = "h1"
addr = "10.0.0.1:9911"
control = "10.0.0.1:9912"

[[host]]
name = "here"
addr = "127.0.0.1:9911"
control = "127.0.0.1:9912"
token_file = "/etc/steady/here.token"

[cluster]
name = "edge-1"

[timeouts]
header = "10s"
idle = "75s"
response = "60s"
tunnel = "1h"
probe = "2s"
park = "30s"
drain = "30s"

[log]
access = "/var/log/steady/access.jsonl"
format = "text"
level = "info"

[forwarded]
trusted = ["10.0.0.0/8"]
server_timing = false
"#;

fn problems(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn the_documented_file_is_read_and_its_values_are_the_defaults() {
    let full = Config::parse(FULL).unwrap();
    assert_eq!(full.hosts[0].control, "10.0.0.1:9912".parse().unwrap());
    assert_eq!(full.forwarded.trusted, [Network { addr: "10.0.0.0".parse().unwrap(), prefix: 8 }]);
    let short = Config::parse("state_dir = \"/var/lib/steady/lb\"\ndomains = [\"steady.page\"]").unwrap();
    assert_eq!((short.timeouts, short.private, short.io), (full.timeouts, full.private, full.io));
    assert!(short.reserved.iter().any(|name| name.as_str() == "api"));
}

#[test]
fn the_example_in_the_documentation_is_valid() {
    let page = include_str!("../../../docs/configuration.md");
    let block = page.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    Config::parse(block).unwrap();
}

#[test]
fn everything_wrong_is_said_at_once_with_its_key() {
    let found = problems(
        r#"
        wokers = 3
        io = "kqueue"
        domains = ["Steady.page", 7, "a.b", "a.b"]
        [[listen]]
        tls = true
        [[host]]
        name = "h 1"
        addr = "10.0.0.1:9911"
        control = "10.0.0.1:0"
        token_file = "t"
        [timeouts]
        header = "10"
        idle = 75
        park = "0s"
        [limits]
        bundle_bytes_max = -1
        [forwarded]
        trusted = ["10.0.0.1/8", "10.0.0.0/33", "nonsense"]
        "#,
    );
    for key in [
        "state_dir: it is missing",
        "wokers: there is no such key",
        "io: it is \"kqueue\"",
        "domains[0]: ",
        "domains[1]: it is a number",
        "listen[0].addr: it is missing",
        "host[0].name: ",
        "host[0].control: ",
        "host[0].addr: a host with a token_file is reached in the clear",
        "timeouts.header: ",
        "timeouts.idle: it is a number",
        "timeouts.park: it is zero",
        "limits.bundle_bytes_max: ",
        "forwarded.trusted[0]: \"10.0.0.1/8\" has bits beyond its prefix: did you mean \"10.0.0.0/8\"?",
        "forwarded.trusted[1]: ",
        "forwarded.trusted[2]: ",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(key)), "{key} is not in {found:#?}");
    }
}

#[test]
fn twins_and_a_tls_listener_without_certificates_are_refused() {
    let host = "[[host]]\nname = \"h\"\naddr = \"1.1.1.1:1\"\ncontrol = \"1.1.1.1:2\"\n";
    let head = "state_dir = \"/x\"\ndomains = [\"a.b\", \"a.b\"]\n[[listen]]\naddr = \"0.0.0.0:1\"\ntls = true\n";
    let found = problems(&format!("{head}{host}{host}"));
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("domains[1]: a.b is given twice"));
    assert!(found[1].starts_with("host[1].name"));
    assert!(found[2].starts_with("host[1].addr"));
    assert!(found[3].starts_with("tls.dir"));
}

#[test]
fn what_is_not_toml_is_one_problem() {
    assert_eq!(problems("state_dir = ").len(), 1);
}

#[test]
fn networks_are_read_in_both_families() {
    for good in ["0.0.0.0/0", "::/0", "192.168.1.0/24", "fd00::/8", "127.0.0.1", "::1"] {
        parse_network(good).unwrap();
    }
    assert_eq!(parse_network("127.0.0.1").unwrap().prefix, 32);
    assert!(parse_network("fd00::1/8").is_err());
}

#[test]
fn a_reload_takes_live_keys_and_names_those_that_wait() {
    let old = Config::parse(FULL).unwrap();
    let mut new = old.clone();
    new.timeouts.idle = Duration::from_secs(1);
    new.hosts.clear();
    new.workers = 7;
    new.log.level = "debug".into();
    new.log.access = Some("/elsewhere".into());
    let reload = old.reload(&new);
    assert_eq!(reload.live, ["host", "timeouts", "log.level"]);
    assert_eq!(reload.restart, ["workers", "log.access"]);
    assert_eq!(reload.effective.timeouts.idle, Duration::from_secs(1));
    assert_eq!(reload.effective.workers, 0);
    assert!(old.reload(&old).live.is_empty());
}

#[test]
fn files_that_are_not_there_are_named() {
    let mut config = Config::parse(FULL).unwrap();
    let dir = tempfile::tempdir().unwrap();
    config.hosts[1].token_file = Some(dir.path().join("none"));
    config.tls = Some(Tls { dir: dir.path().into(), tickets: true, pairs_max: 1 });
    let now = SystemTime::now();
    let found = |config: &Config| -> Vec<String> { config.check_files(now).iter().map(ToString::to_string).collect() };
    let both = found(&config);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[0].starts_with("host[1].token_file: "), "{both:?}");
    assert!(both[1].starts_with("tls.dir: ") && both[1].contains("no usable pair"), "{both:?}");
    config.hosts.clear();
    config.listen.pop();
    assert_eq!(found(&config), <[String; 0]>::default(), "nobody asks for TLS");
    std::fs::write(dir.path().join("site.crt"), "nonsense").unwrap();
    let broken = found(&config);
    assert!(matches!(&broken[..], [one] if one.starts_with("tls.dir: ") && one.contains("site.crt")), "{broken:?}");
}

#[test]
fn listeners_that_the_kernel_does_not_let_be_together_are_refused_and_both_families_of_a_port_are_not() {
    let config = |addrs: &[&str]| {
        let listen: String = addrs.iter().map(|addr| format!("[[listen]]\naddr = {addr:?}\n")).collect();
        Config::parse(&format!("state_dir = \"/x\"\ndomains = [\"a.b\"]\n{listen}"))
    };
    for (one, two) in [("0.0.0.0:80", "0.0.0.0:80"), ("0.0.0.0:80", "10.0.0.1:80"), ("[fd00::1]:80", "[::]:80")] {
        let found = config(&[one, two]).unwrap_err().0;
        assert!(matches!(&found[..], [problem] if problem.key == "listen[1].addr"), "{found:?}");
    }
    for apart in [["0.0.0.0:80", "0.0.0.0:443"], ["127.0.0.1:0", "127.0.0.1:0"], ["10.0.0.1:80", "10.0.0.2:80"]] {
        config(&apart).unwrap();
    }
    let v6_only = |addrs: &[&str]| {
        let listen = config(addrs).unwrap().listen;
        listen.iter().map(|one| one.is_v6_only(&listen)).collect::<Vec<_>>()
    };
    assert_eq!(v6_only(&["[::]:443", "0.0.0.0:443"]), [true, false]);
    assert_eq!(v6_only(&["10.0.0.1:443", "[::]:443"]), [false, true]);
    assert_eq!(v6_only(&["0.0.0.0:80", "[::]:443"]), [false, false]);
}

#[test]
fn a_host_that_is_reached_in_the_clear_is_on_this_machine_and_one_that_joined_may_be_anywhere() {
    let head = "state_dir = \"/x\"\ndomains = [\"a.b\"]\n";
    let host = |addr: &str, control: &str, rest: &str| {
        let text = format!("{head}[[host]]\nname = \"h\"\naddr = {addr:?}\ncontrol = {control:?}\n{rest}");
        Config::parse(&text).err().map_or(Vec::new(), |invalid| invalid.0)
    };
    let token = "token_file = \"t\"\n";
    assert!(host("10.0.0.1:1", "10.0.0.1:2", "").is_empty());
    assert!(host("[::1]:1", "127.0.0.1:2", token).is_empty());
    assert!(host("unix:/run/h", "127.0.0.1:2", token).is_empty());
    assert_eq!(host("10.0.0.1:1", "127.0.0.1:2", token).len(), 1);
    assert_eq!(host("127.0.0.1:1", "10.0.0.1:2", token).len(), 1);
    let config = Config::parse(FULL).unwrap();
    assert_eq!(config.settings().plain_hosts, ["here"]);
}

const LEAST: &str = "state_dir = \"/x\"\ndomains = [\"a.b\"]\n[limits]\n";

#[test]
fn limits_are_read_in_their_units_and_reach_the_workers() {
    let text = "connections_per_client_max = 7\nstream_window = \"128KiB\"\ntake_stall = \"90s\"\n";
    let bounds = Config::parse(&format!("{LEAST}{text}")).unwrap().settings().bounds.unwrap();
    assert_eq!(bounds.worker.connections_per_client_max, 7);
    assert_eq!(bounds.clients.stream_window, 128 << 10);
    assert_eq!(bounds.worker.take_stall, Duration::from_secs(90));
    let untouched = Config::parse(LEAST).unwrap();
    assert_eq!(*untouched.bounds, bounds::default());
}

#[test]
fn a_limit_out_of_its_range_is_refused_with_what_would_be_right() {
    let found = problems(&format!(
        "{LEAST}attempts_max = 99\nhead_bytes_max = 12\ntake_stall = \"30d\"\nexchanges_max = -1\nbody_rate_min = 9"
    ));
    for expected in [
        "limits.attempts_max: it is 99: write a number from 1 to 10",
        "limits.head_bytes_max: it is 12 octets: write a size from 4096 to 1048576 octets",
        "limits.take_stall: it is 2592000000 ms: write a time from 1000 to 86400000 ms",
        "limits.exchanges_max: it is -1",
        "limits.body_rate_min: there is no such key",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected} is not in {found:#?}");
    }
}

#[test]
fn the_documentation_lists_every_limit_with_its_default() {
    let page = include_str!("../../../docs/configuration.md");
    let block = page.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(*Config::parse(block).unwrap().bounds, bounds::default());
    for key in bounds::keys() {
        assert!(block.lines().any(|line| line.starts_with(&format!("{} = ", key.name))), "{} is missing", key.name);
    }
}

#[test]
fn limits_change_while_running() {
    let old = Config::parse(LEAST).unwrap();
    let new = Config::parse(&format!("{LEAST}exchanges_max = 5\n")).unwrap();
    let reload = old.reload(&new);
    assert_eq!((reload.live, reload.effective.bounds.worker.exchanges_max), (vec!["limits"], 5));
}
