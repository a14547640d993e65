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
    /// Whether it answers with a stream, which its caller must not keep when they lose what let them in.
    pub streams: bool,
    /// What it is asked with, where that is a message.
    pub input: Option<MessageDescriptor>,
}

impl Method {
    /// Whether it changes something: whatever does can be asked to `validate_only`.
    pub fn changes(&self) -> bool {
        self.input.as_ref().is_some_and(|input| input.get_field_by_name("validate_only").is_some())
    }
}

/// The policies of all methods that are served, by their HTTP paths. One that ends in `/` stands for all paths below it.
#[derive(Debug)]
pub struct Policies(HashMap<String, Arc<Method>>);

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
                let policy = if public.contains(&service.full_name()) {
                    Policy::Public
                } else {
                    declared(&pool, &method, &name)?
                };
                let (streams, input) = (method.is_server_streaming(), Some(method.input()));
                let served = Method { name: name.as_str().into(), policy, streams, input };
                methods.insert(format!("/{name}"), Arc::new(served));
            }
        }
        Ok(Self(methods))
    }

    /// And those of what no descriptor knows: by path, name, and what is demanded. None of it changes anything.
    #[must_use]
    pub fn with_reads(mut self, reads: &[(&str, &str, Permission)]) -> Self {
        let served = reads.iter().map(|(path, name, permission)| {
            let policy = Policy::Permission(*permission);
            let method = Method { name: (*name).into(), policy, streams: false, input: None };
            ((*path).to_owned(), Arc::new(method))
        });
        self.0.extend(served);
        self
    }

    /// The method that is served at this path.
    pub fn method(&self, path: &str) -> Option<&Arc<Method>> {
        let above = || path.rmatch_indices('/').find_map(|(slash, _)| self.0.get(&path[..=slash]));
        self.0.get(path).or_else(above)
    }

    /// All methods that are served.
    pub fn methods(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.0.values()
    }
}

fn declared(pool: &DescriptorPool, method: &MethodDescriptor, name: &str) -> Result<Policy, PolicyError> {
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
    match (set("permission").as_deref(), set("authenticated").as_deref()) {
        (Some(Value::String(permission)), _) => {
            Permission::parse(permission).map(Policy::Permission).ok_or_else(|| invalid(permission))
        }
        (_, Some(Value::Bool(true))) => Ok(Policy::Authenticated),
        _ => Err(invalid("neither a permission nor authenticated: true")),
    }
}
