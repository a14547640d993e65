//! What each method demands of its caller, as the .proto files declare it beside the method.

use std::collections::HashMap;
use std::sync::Arc;

use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor, Value};

use crate::domain::access::Permission;

/// The option that declares a policy.
const OPTION: &str = "toggled.v1.policy";

/// What a method demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: health checks and reflection, so that probes and grpcurl work without a token.
    Public,
    /// A token that works.
    Authenticated,
    /// A token that works and allows this.
    Permission(Permission),
}

/// A method that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// `toggled.v1.ToggleService/ToggleFeatureFlag`, for one.
    pub name: Arc<str>,
    /// What it demands.
    pub policy: Policy,
    /// Whether callers who send no credentials may make it as well, once that is asked for.
    pub anonymous_on_request: bool,
    /// Whether it answers with a stream, which its caller must not keep when they lose what let them in.
    pub streams: bool,
    /// Whether it is asked with a stream, which goes on for as long as its caller likes.
    pub takes_stream: bool,
    /// What it is asked with, where that is a message.
    pub input: Option<MessageDescriptor>,
    /// Whether it changes something: whatever does can be asked to `validate_only`. Asked at every call, and so not looked up
    /// in `input` then.
    pub changes: bool,
}

impl Method {
    /// Whether it is answered from memory alone, however old that is: what demands no more than to see flags.
    pub fn reads_memory(&self) -> bool {
        self.policy == Policy::Permission(Permission::ViewFeatureFlags)
    }
}

/// The policies of all methods that are served, by their HTTP paths.
#[derive(Debug)]
pub struct Policies {
    at: HashMap<String, Arc<Method>>,
    /// Those of everything below a path.
    below: Vec<(String, Arc<Method>)>,
}

/// A served method that must not be: the server does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The descriptors do not know the service.
    #[error("the service {0} is served and has no descriptor")]
    UnknownService(String),
    /// The method declares nothing.
    #[error("the method {0} is served and declares no policy: access is denied by default")]
    Undeclared(String),
    /// The method declares what does not exist.
    #[error("the method {0} declares a policy that is none: {1}")]
    Invalid(String, String),
    /// The descriptors themselves cannot be read.
    #[error("the descriptors cannot be read: {0}")]
    Descriptors(String),
}

impl Policies {
    /// Reads the policies of the services named in `services` out of the encoded descriptors; every method of the services
    /// named in `public` is [`Policy::Public`].
    ///
    /// # Errors
    /// The first method that must not be served.
    pub fn read(descriptors: &[&[u8]], services: &[&str], public: &[&str]) -> Result<Self, PolicyError> {
        let mut pool = DescriptorPool::new();
        for set in descriptors {
            pool.decode_file_descriptor_set(*set).map_err(|e| PolicyError::Descriptors(e.to_string()))?;
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
                    declared(&pool, &method, &name)?
                };
                let served = Method {
                    name: name.as_str().into(),
                    policy,
                    anonymous_on_request,
                    streams: method.is_server_streaming(),
                    takes_stream: method.is_client_streaming(),
                    changes: method.input().get_field_by_name("validate_only").is_some(),
                    input: Some(method.input()),
                };
                methods.insert(format!("/{name}"), Arc::new(served));
            }
        }
        Ok(Self { at: methods, below: Vec::new() })
    }

    /// And those of what no descriptor knows: by path, name, and what is demanded. A path that ends in `/` stands for all
    /// that lies below it. None of it changes anything.
    #[must_use]
    pub fn with_reads(mut self, reads: &[(&str, &str, Permission)]) -> Self {
        for (path, name, permission) in reads {
            let policy = Policy::Permission(*permission);
            let method = Method {
                name: (*name).into(),
                policy,
                anonymous_on_request: false,
                streams: false,
                takes_stream: false,
                input: None,
                changes: false,
            };
            let entry = ((*path).to_owned(), Arc::new(method));
            if path.ends_with('/') { self.below.push(entry) } else { self.at.extend([entry]) }
        }
        self
    }

    /// The method that is served at this path.
    pub fn method(&self, path: &str) -> Option<&Arc<Method>> {
        let below = || self.below.iter().find(|(above, _)| path.starts_with(above.as_str()));
        self.at.get(path).or_else(|| below().map(|(_, method)| method))
    }

    /// All methods that are served.
    pub fn methods(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.at.values().chain(self.below.iter().map(|(_, method)| method))
    }
}

/// The rule that a method declares, and whether it is open to anybody on request.
fn declared(pool: &DescriptorPool, method: &MethodDescriptor, name: &str) -> Result<(Policy, bool), PolicyError> {
    let extension =
        pool.get_extension_by_name(OPTION).ok_or_else(|| PolicyError::Descriptors(format!("no option {OPTION}")))?;
    let options = method.options();
    // `get_extension` answers a default for an option that is not there.
    if !options.has_extension(&extension) {
        return Err(PolicyError::Undeclared(name.to_owned()));
    }
    let invalid = |why: &str| PolicyError::Invalid(name.to_owned(), why.to_owned());
    let value = options.get_extension(&extension);
    let Value::Message(policy) = value.as_ref() else { return Err(invalid("not a message")) };
    let set = |field: &str| policy.get_field_by_name(field).filter(|_| policy.has_field_by_name(field));
    let rule = match (set("permission").as_deref(), set("authenticated").as_deref()) {
        (Some(Value::String(permission)), _) => {
            Permission::parse(permission).map(Policy::Permission).ok_or_else(|| invalid(permission))
        }
        (_, Some(Value::Bool(true))) => Ok(Policy::Authenticated),
        _ => Err(invalid("neither a permission nor authenticated: true")),
    };
    let rule = rule?;
    let anonymous = matches!(set("anonymous_on_request").as_deref(), Some(Value::Bool(true)));
    if anonymous && rule != Policy::Permission(Permission::ViewFeatureFlags) {
        return Err(invalid("only what demands view_feature_flags can be open to anybody"));
    }
    Ok((rule, anonymous))
}
