//! The attributes of a call that a policy can examine.

/// A call that needs a policy's consent. GetHealthStatus is exempt (XKS specification,
/// GetHealthStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// GetKeyMetadata
    Metadata,
    /// Encrypt
    Encrypt,
    /// Decrypt
    Decrypt,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 3] = [Self::Metadata, Self::Encrypt, Self::Decrypt];

    /// Returns the action's name in paths and policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }

    /// Returns the action with that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// A call's target and its `requestMetadata` (XKS specification, API operations). Strings come from
/// KMS and may have any content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The call.
    pub action: Action,
    /// The store's `uri_path_prefix`; may be empty.
    pub store: &'a str,
    /// The external key id.
    pub external_key_id: &'a str,
    /// `awsPrincipalArn`
    pub aws_principal_arn: &'a str,
    /// `kmsOperation`
    pub kms_operation: &'a str,
    /// `kmsRequestId`
    pub kms_request_id: &'a str,
    /// `kmsKeyArn`
    pub kms_key_arn: Option<&'a str>,
    /// `kmsViaService`
    pub kms_via_service: Option<&'a str>,
    /// `awsSourceVpc`
    pub aws_source_vpc: Option<&'a str>,
    /// `awsSourceVpce`
    pub aws_source_vpce: Option<&'a str>,
}

/// The parts of a `kmsKeyArn`: `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsKey<'a> {
    /// `aws`, `aws-cn`, `aws-us-gov`
    pub partition: &'a str,
    /// The Region.
    pub region: &'a str,
    /// The account number.
    pub account: &'a str,
    /// The part after `key/`.
    pub key_id: &'a str,
}

impl<'a> Attributes<'a> {
    /// Returns the KMS key's parts. `None` if the ARN is missing or has another form: a policy that
    /// refers to a part then permits nothing because of it.
    #[must_use]
    pub fn kms_key(&self) -> Option<KmsKey<'a>> {
        let mut parts = self.kms_key_arn?.split(':');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let (arn, partition, service) = (next()?, next()?, next()?);
        let (region, account, resource) = (next()?, next()?, next()?);
        if arn != "arn" || service != "kms" || parts.next().is_some() {
            return None;
        }
        // The specification's examples begin it with '/', KMS does not.
        let resource = resource.strip_prefix('/').unwrap_or(resource);
        let key_id = resource.strip_prefix("key/")?;
        let is_whole = !key_id.is_empty() && !key_id.contains('/');
        is_whole.then_some(KmsKey { partition, region, account, key_id })
    }
}

/// Name of the attribute that differs in every call.
pub(super) const REQUEST_ID: &str = "kmsRequestId";

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(arn: Option<&str>) -> Option<KmsKey<'_>> {
        let attributes = Attributes {
            action: Action::Metadata,
            store: "",
            external_key_id: "",
            aws_principal_arn: "",
            kms_operation: "",
            kms_request_id: "",
            kms_key_arn: arn,
            kms_via_service: None,
            aws_source_vpc: None,
            aws_source_vpce: None,
        };
        attributes.kms_key()
    }

    /// ARNs in KMS's form and in the specification's have parts; others have none.
    #[test]
    fn arns() {
        let key = |partition, region, account, key_id| {
            Some(KmsKey { partition, region, account, key_id })
        };
        for (arn, expected) in [
            (
                "arn:aws:kms:us-east-2:123456789012:key/1-2",
                key("aws", "us-east-2", "123456789012", "1-2"),
            ),
            (
                "arn:aws:kms:us-east-2:123456789012:/key/1-2",
                key("aws", "us-east-2", "123456789012", "1-2"),
            ),
            ("arn:aws-cn:kms:cn-north-1:1:key/mrk-1", key("aws-cn", "cn-north-1", "1", "mrk-1")),
            ("arn:aws:kms:us-east-2:123456789012:key/", None),
            ("arn:aws:kms:us-east-2:123456789012:key/a/b", None),
            ("arn:aws:kms:us-east-2:123456789012:key/a:b", None),
            ("arn:aws:kms:us-east-2:123456789012:alias/a", None),
            ("arn:aws:kms:us-east-2::key/a", None),
            ("arn:aws:kms::123456789012:key/a", None),
            ("arn:aws:iam:us-east-2:123456789012:key/a", None),
            ("urn:aws:kms:us-east-2:123456789012:key/a", None),
            ("arn:aws:kms:us-east-2:123456789012", None),
            ("::::::", None),
            ("", None),
        ] {
            assert_eq!(key_of(Some(arn)), expected, "{arn}");
        }
        assert_eq!(key_of(None), None);
    }

    /// Each name leads back to its action.
    #[test]
    fn names() {
        for action in Action::ALL {
            assert_eq!(Action::of_name(action.name()), Some(action));
        }
        assert_eq!(Action::of_name("health"), None);
    }
}
