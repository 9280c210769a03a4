//! The partitions of AWS, whose names differ.
//!
//! Source: `botocore/data/partitions.json` of botocore 1.44.8, read 2026-11-29. The table in
//! docs/operations.md says of each name who confirms it. The isolated partitions are not in it:
//! their Regions count as unknown.

/// A part of AWS with names of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Partition {
    /// The name, which is also the second part of ARNs.
    pub name: &'static str,
    /// End of the DNS names of its services.
    pub dns_suffix: &'static str,
    /// Beginnings of the names of its Regions.
    region_prefixes: &'static [&'static str],
}

/// All partitions. The first is assumed for an unknown Region.
pub const PARTITIONS: [Partition; 4] = [
    Partition {
        name: "aws",
        dns_suffix: "amazonaws.com",
        region_prefixes: &[
            "af-", "ap-", "ca-", "eu-", "il-", "me-", "mx-", "sa-", "us-east-", "us-west-",
        ],
    },
    Partition { name: "aws-us-gov", dns_suffix: "amazonaws.com", region_prefixes: &["us-gov-"] },
    Partition { name: "aws-eusc", dns_suffix: "amazonaws.eu", region_prefixes: &["eusc-"] },
    Partition { name: "aws-cn", dns_suffix: "amazonaws.com.cn", region_prefixes: &["cn-"] },
];

/// Beginnings of the names of Regions in isolated partitions, one of which resembles another's.
const ISOLATED: [&str; 2] = ["us-iso", "eu-iso"];

/// Returns the partition of a Region, unless it is unknown.
#[must_use]
pub fn known(region: &str) -> Option<&'static Partition> {
    if ISOLATED.iter().any(|prefix| region.starts_with(prefix)) {
        return None;
    }
    PARTITIONS.iter().find(|it| it.region_prefixes.iter().any(|prefix| region.starts_with(prefix)))
}

/// Returns the partition of a Region; for an unknown one, the first.
#[must_use]
pub fn of(region: &str) -> &'static Partition {
    known(region).unwrap_or(&PARTITIONS[0])
}

/// Returns the DNS name of a service in a Region.
#[must_use]
pub fn service(name: &str, region: &str) -> String {
    format!("{name}.{region}.{}", of(region).dns_suffix)
}

/// Returns the name in the client certificate of KMS in a Region (mTLS), which is also its principal
/// at an endpoint service.
#[must_use]
pub fn kms_client_name(region: &str) -> String {
    service("cks.kms", region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        for (region, name) in [
            ("us-east-1", Some("cks.kms.us-east-1.amazonaws.com")),
            ("eu-central-1", Some("cks.kms.eu-central-1.amazonaws.com")),
            ("mx-central-1", Some("cks.kms.mx-central-1.amazonaws.com")),
            ("us-gov-west-1", Some("cks.kms.us-gov-west-1.amazonaws.com")),
            ("eusc-de-east-1", Some("cks.kms.eusc-de-east-1.amazonaws.eu")),
            ("cn-northwest-1", Some("cks.kms.cn-northwest-1.amazonaws.com.cn")),
            ("eu-isoe-west-1", None),
            ("us-isob-east-1", None),
            ("xx-north-1", None),
        ] {
            assert_eq!(known(region).is_some(), name.is_some(), "{region}");
            let fallback = format!("cks.kms.{region}.amazonaws.com");
            assert_eq!(kms_client_name(region), name.unwrap_or(&fallback), "{region}");
        }
        assert_eq!(of("us-gov-west-1").name, "aws-us-gov");
        assert_eq!(of("eusc-de-east-1").name, "aws-eusc");
    }
}
