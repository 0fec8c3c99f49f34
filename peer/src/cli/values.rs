//! How single values are written on the command line; each complaint says what is expected.

use super::args::{DEFAULT_PORT, LAST_PORT, PieceSize, SeedFor, StopWhen};
use crate::engine::Listen;
use shoal_protocol::link::Url;
use shoal_protocol::units::{parse_duration, parse_size};
use std::net::IpAddr;

pub(super) fn url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| error.to_string())
}

pub(super) fn zone(text: &str) -> Result<String, String> {
    if shoal_protocol::announce::zone_is_valid(text) {
        Ok(text.to_owned())
    } else {
        Err("a zone is letters, digits, '-', '_' and '.', with '/' between its parts, 128 bytes at most".to_owned())
    }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    shoal_protocol::path::check_component(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

pub(super) fn host_port(text: &str) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is not HOST:PORT")),
    }
}

pub(super) fn piece_size(text: &str) -> Result<PieceSize, String> {
    if text == "auto" {
        return Ok(PieceSize(None));
    }
    let size = parse_size(text)?;
    match u32::try_from(size) {
        Ok(small) if shoal_protocol::geometry::piece_size_is_valid(size) => Ok(PieceSize(Some(small))),
        _ => Err("a piece size is a power of two from 64K to 16M, or auto".to_owned()),
    }
}

pub(super) fn seed_for(text: &str) -> Result<SeedFor, String> {
    match text {
        "auto" => Ok(SeedFor::Auto),
        "forever" => Ok(SeedFor::Forever),
        _ => parse_duration(text).map(SeedFor::Time).map_err(|error| format!("{error}, or auto, or forever")),
    }
}

pub(super) fn stop_when(text: &str) -> Result<StopWhen, String> {
    if text == "never" {
        return Ok(StopWhen::Never);
    }
    let wrong =
        || format!("'{text}' is not a condition: write never, idle=10m, copies=2.0, complete=N or uploaded=SIZE");
    let (key, value) = text.split_once('=').ok_or_else(wrong)?;
    match key {
        "idle" => parse_duration(value).map(StopWhen::Idle),
        "copies" => match value.parse::<f64>() {
            Ok(copies) if copies.is_finite() && copies > 0.0 => Ok(StopWhen::Copies(copies)),
            _ => Err(wrong()),
        },
        "complete" => match value.parse::<u32>() {
            Ok(count) if count > 0 => Ok(StopWhen::Complete(count)),
            _ => Err(wrong()),
        },
        "uploaded" => parse_size(value).map(StopWhen::Uploaded),
        _ => Err(wrong()),
    }
}

/// `ADDR:PORT`, `ADDR:PORT-PORT`, `:PORT`, `PORT`, `ADDR`; `[::]` and `*` stand for all addresses.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    let wrong = || format!("'{text}' is no address to listen at: write 10.0.0.1:7171, [::]:7171-7199, :7171 or :0");
    let (host, ports) = if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        (ip.to_string(), None)
    } else if let Some((host, ports)) = text.rsplit_once(':') {
        (host.trim_start_matches('[').trim_end_matches(']').to_owned(), Some(ports))
    } else {
        (String::new(), Some(text))
    };
    let ip = match host.as_str() {
        "" | "*" | "::" => None,
        host => Some(host.parse::<IpAddr>().map_err(|_| wrong())?),
    };
    let ports = match ports {
        None => DEFAULT_PORT..=LAST_PORT,
        Some(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let first: u16 = first.parse().map_err(|_| wrong())?;
            let last: u16 = last.parse().map_err(|_| wrong())?;
            if last < first {
                return Err(wrong());
            }
            first..=last
        }
    };
    Ok(Listen { ip, ports })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn places_to_listen_are_read() {
        for (text, ip, ports) in [
            ("7171", None, 7171..=7171),
            (":0", None, 0..=0),
            ("[::]:7171-7199", None, 7171..=7199),
            ("0.0.0.0:80", Some("0.0.0.0"), 80..=80),
            ("[::1]:5", Some("::1"), 5..=5),
            ("10.0.0.1", Some("10.0.0.1"), 7171..=7199),
            ("::1", Some("::1"), 7171..=7199),
        ] {
            let got = listen(text).unwrap();
            assert_eq!((got.ip, got.ports), (ip.map(|ip| ip.parse().unwrap()), ports), "{text}");
        }
        for bad in ["", "x", "a:1", "1.2.3.4:70000", ":9-8", ":-1"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_are_read() {
        assert_eq!(stop_when("idle=10m"), Ok(StopWhen::Idle(Duration::from_secs(600))));
        assert_eq!(stop_when("copies=2.0"), Ok(StopWhen::Copies(2.0)));
        assert_eq!(stop_when("complete=3"), Ok(StopWhen::Complete(3)));
        assert_eq!(stop_when("uploaded=1K"), Ok(StopWhen::Uploaded(1024)));
        for bad in ["", "idle", "idle=x", "copies=0", "copies=nan", "complete=0", "complete=-1", "x=1"] {
            assert!(stop_when(bad).is_err(), "{bad}");
        }
        assert_eq!(seed_for("forever"), Ok(SeedFor::Forever));
        assert!(seed_for("x").is_err());
        assert_eq!(piece_size("auto"), Ok(PieceSize(None)));
        assert_eq!(piece_size("1M"), Ok(PieceSize(Some(1 << 20))));
        assert!(piece_size("32M").is_err() && piece_size("3M").is_err());
    }
}
