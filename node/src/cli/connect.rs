//! The options that every client command has, and the connection they lead to.

use std::time::Duration;

use loci_client::{Client, Collection};

use super::failure::Failure;
use super::filter_language;

/// Where the node is and how to speak to it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection and output")]
pub struct Connection {
    /// Address of the node, host:port; several of one cluster, with commas between them, stand in for each other.
    #[arg(long, env = "LOCI_ADDRESS", default_value = crate::config::LISTEN_DEFAULT)]
    pub address: String,
    /// Ask only these addresses, whoever leads: for nodes that are reached by nothing but a proxy, say.
    #[arg(long)]
    pub no_follow: bool,
    /// The namespace.
    #[arg(long, short, env = "LOCI_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// How long a call may take: 500ms, 30s, 2m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Who acts, for the log.
    #[arg(long, env = "LOCI_PRINCIPAL", default_value = "")]
    pub principal: String,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub json: bool,
}

impl Connection {
    /// The connection is made with the first call.
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_of(2)
    }

    pub fn client_of(&self, connections: usize) -> Result<Client, Failure> {
        let builder =
            self.address.split(',').fold(Client::builder(), |builder, address| builder.address(address.trim()));
        let builder = builder
            .connections(connections)
            .timeout(self.timeout)
            .retries(5)
            .follow_leader(!self.no_follow)
            .principal(&self.principal)
            .task("loci command line");
        builder.connect_lazy().map_err(|error| Failure::call("--address", error))
    }

    pub fn collection(&self, name: &str) -> Result<Collection, Failure> {
        Ok(self.client()?.collection(&self.namespace, name))
    }

    /// What a failed call was about, when it was about the node as a whole.
    pub fn node(&self) -> String {
        format!("node {}", self.address)
    }
}

/// A `--filter`, read where the command line is read, so that a mistake is one of usage.
pub fn filter(text: &str) -> Result<loci_client::Filter, String> {
    filter_language::parse(text).map_err(|error| error.to_string())
}

/// `500ms`, `30s`, `2m`, `12h`, `7d`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 500ms, 30s, 2m, 12h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

/// `4096`, `64KiB`, `10MiB`, `2GiB`.
pub fn bytes_count(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 4096, 64KiB, 10MiB or 2GiB");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "s", "-1s", "1y", "1.5s", "99999999999999999999d", "1\u{e9}"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes_count("64KiB"), Ok(65_536));
        assert!(bytes_count("1TB").is_err());
    }
}
