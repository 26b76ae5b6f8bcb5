//! `/v1/routes`: what is in force, how it came about, and changes of domains.

use std::collections::BTreeMap;

use axum::Json;
use serde_json::{Value, json};
use steady_table::{AppName, DomainName};

use super::{Problem, Running, timestamp};
use crate::edge::Edge;
use crate::limits::HISTORY_SHOWN;
use crate::store::{Commit, Write};

pub async fn show(Running(edge): Running) -> Result<Json<Value>, Problem> {
    Ok(Json(render(&edge).await?))
}

async fn render(edge: &Edge) -> Result<Value, Problem> {
    let published = edge.control.published();
    let routes = &published.snapshot.routes;
    let customs: BTreeMap<&str, &str> = routes.customs().collect();
    let history = edge.store().history(HISTORY_SHOWN).await?;
    let history: Vec<Value> = history
        .into_iter()
        .map(|entry| json!({"revision": entry.revision, "time": timestamp(entry.at_ms), "what": entry.what}))
        .collect();
    Ok(json!({
        "revision": routes.revision(),
        "generation": published.publication,
        "settled": edge.control.is_settled(),
        "apps": routes.app_count(),
        "domains": routes.domains().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "custom_domains": customs,
        "history": history,
    }))
}

pub async fn change(Running(edge): Running, body: axum::body::Bytes) -> Result<Json<Value>, Problem> {
    let body: Value = serde_json::from_slice(&body).map_err(|error| Problem::new(400, "the body is no JSON", error))?;
    let (writes, what) = parse(&body).map_err(Problem::refused)?;
    if !writes.is_empty() {
        let commit = Commit { at_ms: edge.now(), what, expect: Vec::new(), writes };
        edge.control.commit(commit).await?;
        edge.control.settle().await?;
    }
    Ok(Json(render(&edge).await?))
}

/// The writes that a body asks for, or everything that is wrong with it.
fn parse(body: &Value) -> Result<(Vec<Write>, String), Vec<String>> {
    let mut reasons = Vec::new();
    let (mut writes, mut what) = (Vec::new(), Vec::new());
    let Some(object) = body.as_object() else {
        return Err(vec!["send an object with \"domains\", \"custom_domains\" or both".into()]);
    };
    for (key, value) in object {
        match (key.as_str(), value) {
            ("domains", Value::Array(list)) => {
                let domains =
                    list.iter().filter_map(|item| domain(item.as_str(), item, &mut reasons)).collect::<Vec<_>>();
                what.push(format!("domains: {}", names(&domains)));
                writes.push(Write::SetDomains(domains));
            }
            ("custom_domains", Value::Object(customs)) => {
                for (name, app) in customs {
                    let Some(name) = domain(Some(name), &Value::Null, &mut reasons) else { continue };
                    match app {
                        Value::Null => {
                            what.push(format!("{name} is removed"));
                            writes.push(Write::RemoveCustom(name));
                        }
                        Value::String(app) => match AppName::new(app) {
                            Ok(app) => {
                                what.push(format!("{name} is {app}"));
                                writes.push(Write::PutCustom(name, app));
                            }
                            Err(error) => reasons.push(format!("custom domain {name}: {error}")),
                        },
                        other => {
                            reasons.push(format!("custom domain {name} is {other}: give an application's name or null"))
                        }
                    }
                }
            }
            ("domains", _) => reasons.push("\"domains\" is a list of domains".into()),
            ("custom_domains", _) => {
                reasons.push(
                    "\"custom_domains\" is an object: a domain, and the application that it serves or null".into(),
                );
            }
            _ => reasons.push(format!("{key:?} cannot be changed: there are \"domains\" and \"custom_domains\"")),
        }
    }
    if reasons.is_empty() { Ok((writes, what.join("; "))) } else { Err(reasons) }
}

fn domain(text: Option<&str>, item: &Value, reasons: &mut Vec<String>) -> Option<DomainName> {
    let Some(text) = text else {
        reasons.push(format!("{item} is no domain: write a text"));
        return None;
    };
    DomainName::new(text).map_err(|error| reasons.push(error.to_string())).ok()
}

fn names(domains: &[DomainName]) -> String {
    domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_change_is_named() {
        let body = json!({
            "domains": ["fine.test", "Bad.test", 7],
            "custom_domains": {"a..b": "shop", "ok.test": "Not A Name", "no.test": 3},
            "apps": {}
        });
        assert_eq!(parse(&body).unwrap_err().len(), 6);
        assert_eq!(parse(&json!([])).unwrap_err().len(), 1);
        assert_eq!(parse(&json!({"domains": 1, "custom_domains": []})).unwrap_err().len(), 2);
    }

    #[test]
    fn a_change_becomes_its_writes() {
        let body = json!({"domains": ["a.test"], "custom_domains": {"shop.example": "shop", "old.example": null}});
        let (writes, what) = parse(&body).unwrap();
        assert_eq!(writes.len(), 3);
        assert!(what.contains("shop.example is shop") && what.contains("old.example is removed"), "{what}");
    }
}
