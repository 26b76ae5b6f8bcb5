//! What the tests of the table share.
#![allow(dead_code, unreachable_pub)]

use steady_table::{App, AppName, Contents, DomainName, Endpoint, Host, HostIndex, Moving, Resolution, Route, Routes};

pub fn name(text: &str) -> AppName {
    text.parse().unwrap()
}

pub fn domain(text: &str) -> DomainName {
    text.parse().unwrap()
}

pub fn host(n: u32) -> Host {
    Host::new(&format!("h{n}"), &format!("10.0.0.{}:7000", n + 1)).unwrap()
}

pub fn endpoint(host: u32) -> Endpoint {
    Endpoint { host: HostIndex(host), weight: 1, version: 1 }
}

pub fn app(text: &str, host: u32) -> App {
    App { name: name(text), generation: 1, exclusive: false, version: 1, endpoints: vec![endpoint(host)], moving: None }
}

pub fn moving(from: u32, to: u32, generation: u64) -> Option<Moving> {
    Some(Moving { from: HostIndex(from), to: HostIndex(to), generation })
}

/// Three hosts, three domains, applications `shop`, `blog` and `wiki`, and `www.example.org` for the shop.
pub fn contents() -> Contents {
    Contents {
        hosts: vec![host(0), host(1), host(2)],
        domains: vec![domain("steady.page"), domain("steady.sh"), domain("localhost")],
        apps: vec![app("shop", 0), app("blog", 1), app("wiki", 2)],
        customs: vec![(domain("www.example.org"), name("shop"))],
    }
}

pub fn to_app(route: Route<'_>) -> App {
    App {
        name: name(route.name()),
        generation: route.generation(),
        exclusive: route.is_exclusive(),
        version: route.version(),
        endpoints: route.endpoints().collect(),
        moving: route.moving(),
    }
}

/// The resolution in a few words.
pub fn resolved(routes: &Routes, authority: &str) -> String {
    match routes.resolve(authority.as_bytes()) {
        Resolution::App(route) => route.name().to_owned(),
        Resolution::NoSuchApp => "no such app".into(),
        Resolution::NotOurs => "not ours".into(),
        Resolution::Bad => "bad".into(),
    }
}

pub fn app_names(routes: &Routes) -> Vec<String> {
    let mut names: Vec<_> = routes.apps().map(|route| route.name().to_owned()).collect();
    names.sort();
    names
}
