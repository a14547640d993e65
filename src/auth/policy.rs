//! The policy of each method: what it requires of its caller, as declared in the .proto files.

use std::sync::Arc;

use hashbrown::HashMap;
use prost_reflect::{DescriptorError, DescriptorPool, MessageDescriptor, MethodDescriptor, Value};
use prost_types::method_options::IdempotencyLevel;

use crate::domain::access::{Permission, Scope};

/// The method option that declares a policy.
const POLICY_OPTION: &str = "toggled.v1.policy";

/// What a method requires of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nothing. Health checks and reflection are public, so that probes and grpcurl work without a token.
    Public,
    /// A valid credential.
    Authenticated,
    /// A valid credential with this permission, held everywhere or in any environment. What the method shows or changes is then only what
    /// is where the permission is held.
    Permission(Permission),
    /// A valid credential with this permission, held everywhere.
    PermissionEverywhere(Permission),
}

impl Policy {
    /// The required permission, and where it must be held: everywhere, or anywhere.
    pub fn permission(self) -> Option<(Permission, Option<Scope<'static>>)> {
        match self {
            Self::Permission(permission) => Some((permission, None)),
            Self::PermissionEverywhere(permission) => Some((permission, Some(Scope::Everywhere))),
            Self::Public | Self::Authenticated => None,
        }
    }
}

/// A method that the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedMethod {
    /// The full name, such as `toggled.v1.ToggleService/ToggleFeatureFlag`.
    pub name: Arc<str>,
    /// What the method requires of its caller.
    pub policy: Policy,
    /// Whether callers without credentials may call it where the settings allow anonymous reads.
    pub anonymous_on_request: bool,
    /// Whether the response is a stream. The server ends the stream when the caller loses access.
    pub is_server_streaming: bool,
    /// Whether the request is a stream, which can last as long as the caller likes.
    pub is_client_streaming: bool,
    /// The request message; `None` for methods that no descriptor describes.
    pub input: Option<MessageDescriptor>,
    /// The response message; likewise.
    pub output: Option<MessageDescriptor>,
    /// Whether the .proto file declares that the method has no side effects. Then it may also be called by GET.
    pub has_no_side_effects: bool,
    /// Whether the method makes changes: all such methods have the field `validate_only`. Stored, because every call needs
    /// it and a look-up in `input` is slower.
    pub makes_changes: bool,
}

impl ServedMethod {
    /// Whether calls are served even while the state in memory is stale. True for methods that only view flags. Those whose
    /// answer must not be stale check that themselves, such as one about the past.
    pub fn is_served_from_memory(&self) -> bool {
        self.policy.permission().is_some_and(|(permission, _)| permission == Permission::ViewFeatureFlags)
    }
}

/// A read-only method that no descriptor describes.
#[derive(Debug, Clone, Copy)]
pub struct ReadRoute {
    /// The path. One that ends in `/` covers every path below it.
    pub path: &'static str,
    /// The method's name.
    pub name: &'static str,
    /// The required permission.
    pub permission: Permission,
    /// Whether the answer is a stream.
    pub is_stream: bool,
}

/// The served methods and their policies, by HTTP path.
#[derive(Debug)]
pub struct Policies {
    by_path: HashMap<String, Arc<ServedMethod>>,
    by_prefix: Vec<(String, Arc<ServedMethod>)>,
}

/// Why the server refuses to serve a method. It does not start then.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The service is not in the descriptors.
    #[error("the served service {0} has no descriptor; add its file descriptor set")]
    UnknownService(String),
    /// The method declares no policy.
    #[error("the served method {0} declares no policy; add the option (toggled.v1.policy)")]
    Undeclared(String),
    /// The method declares an invalid policy.
    #[error("the policy of method {0} is invalid: {1}")]
    Invalid(String, String),
    /// The descriptors lack the policy option.
    #[error("the descriptors have no option {POLICY_OPTION}")]
    NoPolicyOption,
    /// The descriptors cannot be decoded.
    #[error("cannot decode the descriptors: {0}")]
    Descriptors(#[from] DescriptorError),
}

impl Policies {
    /// Reads the policies of `services` from the encoded descriptors. Every method of the services in `public` is
    /// [`Policy::Public`].
    ///
    /// # Errors
    /// When a method has no valid policy, or a service no descriptor.
    pub fn read(descriptors: &[&[u8]], services: &[&str], public: &[&str]) -> Result<Self, PolicyError> {
        let mut pool = DescriptorPool::new();
        for set in descriptors {
            pool.decode_file_descriptor_set(*set)?;
        }
        let mut methods = HashMap::new();
        for name in services.iter().chain(public) {
            let service =
                pool.get_service_by_name(name).ok_or_else(|| PolicyError::UnknownService((*name).to_owned()))?;
            for method in service.methods() {
                let name = format!("{}/{}", service.full_name(), method.name());
                let (policy, anonymous_on_request) = if public.contains(&service.full_name()) {
                    (Policy::Public, false)
                } else {
                    declared_policy(&pool, &method, &name)?
                };
                let served = ServedMethod {
                    name: name.as_str().into(),
                    policy,
                    anonymous_on_request,
                    is_server_streaming: method.is_server_streaming(),
                    is_client_streaming: method.is_client_streaming(),
                    makes_changes: method.input().get_field_by_name("validate_only").is_some(),
                    input: Some(method.input()),
                    output: Some(method.output()),
                    has_no_side_effects: has_no_side_effects(&method),
                };
                methods.insert(format!("/{name}"), Arc::new(served));
            }
        }
        Ok(Self { by_path: methods, by_prefix: Vec::new() })
    }

    /// Adds read-only methods that no descriptor describes.
    #[must_use]
    pub fn with_reads(mut self, reads: &[ReadRoute]) -> Self {
        for ReadRoute { path, name, permission, is_stream } in reads {
            let policy = Policy::Permission(*permission);
            let method = ServedMethod {
                name: (*name).into(),
                policy,
                anonymous_on_request: false,
                is_server_streaming: *is_stream,
                is_client_streaming: false,
                input: None,
                output: None,
                has_no_side_effects: false,
                makes_changes: false,
            };
            let entry = ((*path).to_owned(), Arc::new(method));
            if path.ends_with('/') { self.by_prefix.push(entry) } else { self.by_path.extend([entry]) }
        }
        self
    }

    /// The method served at this HTTP path.
    pub fn method(&self, path: &str) -> Option<&Arc<ServedMethod>> {
        let by_prefix = || self.by_prefix.iter().find(|(prefix, _)| path.starts_with(prefix.as_str()));
        self.by_path.get(path).or_else(|| by_prefix().map(|(_, method)| method))
    }

    /// All served methods.
    pub fn methods(&self) -> impl Iterator<Item = &Arc<ServedMethod>> {
        self.by_path.values().chain(self.by_prefix.iter().map(|(_, method)| method))
    }
}

fn has_no_side_effects(method: &MethodDescriptor) -> bool {
    let options = method.method_descriptor_proto().options.as_ref();
    options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects)
}

/// The policy that a method declares, and whether the settings can open it to anonymous callers.
fn declared_policy(
    pool: &DescriptorPool,
    method: &MethodDescriptor,
    name: &str,
) -> Result<(Policy, bool), PolicyError> {
    let extension = pool.get_extension_by_name(POLICY_OPTION).ok_or(PolicyError::NoPolicyOption)?;
    let options = method.options();
    // `get_extension` returns a default value if the option is absent.
    if !options.has_extension(&extension) {
        return Err(PolicyError::Undeclared(name.to_owned()));
    }
    let invalid = |problem: &str| PolicyError::Invalid(name.to_owned(), problem.to_owned());
    let value = options.get_extension(&extension);
    let Value::Message(option) = value.as_ref() else { return Err(invalid("not a message")) };
    let set = |field: &str| option.get_field_by_name(field).filter(|_| option.has_field_by_name(field));
    let is_everywhere = matches!(set("everywhere").as_deref(), Some(Value::Bool(true)));
    let policy = match (set("permission").as_deref(), set("authenticated").as_deref()) {
        (Some(Value::String(permission)), _) => match Permission::parse(permission) {
            Some(permission) if is_everywhere || !permission.can_be_scoped() => {
                Ok(Policy::PermissionEverywhere(permission))
            }
            Some(permission) => Ok(Policy::Permission(permission)),
            None => Err(invalid(permission)),
        },
        (_, Some(Value::Bool(true))) => Ok(Policy::Authenticated),
        _ => Err(invalid("neither a permission nor authenticated: true")),
    };
    let policy = policy?;
    let anonymous = matches!(set("anonymous_on_request").as_deref(), Some(Value::Bool(true)));
    if anonymous && policy.permission().is_none_or(|(permission, _)| permission != Permission::ViewFeatureFlags) {
        return Err(invalid("anonymous_on_request requires the permission view_feature_flags"));
    }
    Ok((policy, anonymous))
}
