//! The rules of `deny.toml` that can be checked without further tools: licences, bans and sources of all dependencies of
//! the workspace. cargo-deny, where it is installed, checks the same and more.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The packages that are built on this platform.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", "host-tuple"]);
    let output = command.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn rules() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

fn texts(list: &toml::Value) -> Vec<&str> {
    list.as_array().unwrap().iter().filter_map(toml::Value::as_str).collect()
}

/// Whether a licence expression can be met with the allowed licences alone. Crates write `/` for `OR`, too.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any(&words, &mut at, allowed) && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any(words, at, allowed);
        *at += 1;
        return met && words.get(*at - 1) == Some(&")");
    }
    if words.get(*at) == Some(&"WITH") {
        let name = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
        return allowed.contains(&name.as_str());
    }
    allowed.contains(word)
}

#[test]
fn expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT", "ISC", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
    let good = [
        "MIT",
        "MIT OR GPL-3.0",
        "Unlicense/MIT",
        "GPL-3.0 / MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        "GPL-3.0 OR MIT AND ISC",
    ];
    let bad =
        ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT", "MIT)", "MIT MIT", "GPL-3.0 WITH LLVM-exception"];
    for expression in good {
        assert!(is_met(expression, &allowed), "{expression}");
    }
    for expression in bad {
        assert!(!is_met(expression, &allowed), "{expression}");
    }
}

#[test]
fn every_dependency_keeps_to_the_rules() {
    let rules = rules();
    let allowed = texts(&rules["licenses"]["allow"]);
    let banned: Vec<&str> =
        rules["bans"]["deny"].as_array().unwrap().iter().filter_map(|rule| rule["crate"].as_str()).collect();
    assert!(!allowed.is_empty() && !banned.is_empty());
    let packages = packages();
    assert!(packages.len() > 50, "the list of dependencies has moved");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_met(licence, &allowed), "{name} is under {licence}, which deny.toml doesn't allow");
        assert!(!banned.contains(&name), "{name} is banned by deny.toml");
        // Members of the workspace have no source.
        let source = package["source"].as_str().unwrap_or("registry+");
        assert!(source.starts_with("registry+"), "{name} comes from {source}, which deny.toml doesn't allow");
    }
}
