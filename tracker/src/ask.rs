//! What the command asks a tracker that runs: its swarms, its counters, whether it is well.

use crate::cli::Failure;
use crate::output::Output;
use crate::service::Status;
use serde_json::Value;
use shoal_protocol::SwarmId;
use shoal_protocol::link::Url;
use shoal_protocol::units::format_duration;
use std::time::Duration;

async fn ask(base: &str, path: &str) -> Result<(u16, bytes::Bytes), Failure> {
    let url = Url::parse(base).map_err(|error| Failure::new(2, format!("{base}: {error}")))?;
    if url.tls {
        return Err(Failure::new(2, format!("{base}: this command speaks plain http only")));
    }
    crate::client::get(&url.tracker().below(path)).await.map_err(|text| Failure::new(4, text))
}

async fn ask_json(base: &str, path: &str) -> Result<Value, Failure> {
    let (status, body) = ask(base, path).await?;
    let value: Option<Value> = serde_json::from_slice(&body).ok();
    match (status, value) {
        (200, Some(value)) => Ok(value),
        (_, Some(Value::Object(fields))) if fields.contains_key("error") => {
            Err(Failure::new(8, format!("{base}{path}: {}", fields["error"].as_str().unwrap_or_default()))
                .hint("this needs the URL of the tracker's admin port"))
        }
        _ => Err(Failure::new(3, format!("{base}{path}: not the answer of a tracker's admin port (status {status})"))),
    }
}

/// Lists swarms, or the peers of one.
pub(crate) async fn swarms(url: &str, id: Option<SwarmId>, output: Output) -> Result<(), Failure> {
    let path = id.map_or("/v1/swarms".to_owned(), |id| format!("/v1/swarms/{id}"));
    let answer = ask_json(url, &path).await?;
    let field = |row: &Value, name: &str| match &row[name] {
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    };
    for row in answer["rows"].as_array().into_iter().flatten() {
        output.record(if id.is_some() { "peer" } else { "swarm" }, row);
        let columns: Vec<String> = if id.is_some() {
            let role = if row["seed"] == true { "seed" } else { "leecher" };
            vec![
                format!("{} {}", field(row, "ip"), field(row, "port")),
                role.into(),
                field(row, "zone"),
                field(row, "label"),
            ]
        } else {
            let count = |name| format!("{name} {}", field(row, name));
            vec![field(row, "swarm"), count("seeds"), count("leechers"), count("completed")]
        };
        output.line(columns.join("  ").trim_end());
    }
    Ok(())
}

/// Shows the counters.
pub(crate) async fn status(url: &str, output: Output) -> Result<(), Failure> {
    let answer = ask_json(url, "/v1/status").await?;
    let status: Status = serde_json::from_value(answer.clone())
        .map_err(|error| Failure::new(3, format!("{url}: not the status of a tracker: {error}")))?;
    output.record("status", &answer);
    output.line(&counters(&status));
    Ok(())
}

/// The counters in a line.
pub(crate) fn counters(status: &Status) -> String {
    format!(
        "up {}  swarms {}  peers {}  manifests {}  requests {}  announces {}  handed out {}  refused {}  too fast {}",
        format_duration(Duration::from_secs(status.uptime_s)),
        status.swarms,
        status.peers,
        status.manifests,
        status.requests,
        status.announces,
        status.peers_handed_out,
        status.refused,
        status.rate_limited
    )
}

/// Whether a tracker answers.
pub(crate) async fn health(url: &str, output: Output) -> Result<(), Failure> {
    match ask(url, "/healthz").await {
        Ok((200, _)) => {
            output.line("ok");
            Ok(())
        }
        Ok((status, _)) => Err(Failure::new(1, format!("{url} answers with status {status}"))),
        Err(failure) if failure.code == 4 => Err(Failure { code: 1, ..failure }),
        Err(failure) => Err(failure),
    }
}
