//! Reflection: the .proto files of all services, by both versions of its protocol.
//!
//! The service of tonic-reflection ends the stream at the first name that it does not know, and knows no extensions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use prost_reflect::{DescriptorError, DescriptorPool, EnumDescriptor, ExtensionDescriptor, MessageDescriptor};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{v1, v1alpha};

/// The reflection services.
#[derive(Clone)]
pub(super) struct Reflection {
    files: Arc<Files>,
}

impl Reflection {
    /// Serves the files of these encoded sets. Of several files with one name, it serves the first.
    pub fn of(sets: &[&[u8]]) -> Result<Self, DescriptorError> {
        let mut files = Files::default();
        for set in sets {
            files.add(&DescriptorPool::decode(*set)?);
        }
        Ok(Self { files: Arc::new(files) })
    }
}

/// The files, and where each name is.
#[derive(Default)]
struct Files {
    /// Encoded: decoded types would lose the options that declare policies.
    encoded: Vec<Vec<u8>>,
    by_name: HashMap<String, usize>,
    /// By the full names of what they define.
    by_symbol: HashMap<String, usize>,
    /// By the message that is extended, and the number.
    by_extension: HashMap<String, BTreeMap<i32, usize>>,
    services: Vec<String>,
}

/// What a request asks for.
enum Query<'q> {
    FileName(&'q str),
    Symbol(&'q str),
    Extension(&'q str, i32),
    ExtensionNumbers(&'q str),
    Services,
}

/// What was found.
enum Found<'f> {
    File(&'f [u8]),
    /// Of a message.
    ExtensionNumbers(&'f str, Vec<i32>),
    Services(&'f [String]),
}

impl Files {
    fn add(&mut self, pool: &DescriptorPool) {
        for file in pool.files() {
            if self.by_name.contains_key(file.name()) {
                continue;
            }
            let index = self.encoded.len();
            self.encoded.push(file.encode_to_vec());
            self.by_name.insert(file.name().to_owned(), index);
            file.messages().for_each(|message| self.add_message(index, &message));
            file.enums().for_each(|of| self.add_enum(index, &of));
            file.extensions().for_each(|extension| self.add_extension(index, &extension));
            for service in file.services() {
                self.add_symbol(index, service.full_name());
                service.methods().for_each(|method| self.add_symbol(index, method.full_name()));
                self.services.push(service.full_name().to_owned());
            }
        }
    }

    fn add_message(&mut self, index: usize, message: &MessageDescriptor) {
        self.add_symbol(index, message.full_name());
        self.by_extension.entry(message.full_name().to_owned()).or_default();
        message.fields().for_each(|field| self.add_symbol(index, field.full_name()));
        message.oneofs().for_each(|oneof| self.add_symbol(index, oneof.full_name()));
        message.child_messages().for_each(|child| self.add_message(index, &child));
        message.child_enums().for_each(|child| self.add_enum(index, &child));
        message.child_extensions().for_each(|extension| self.add_extension(index, &extension));
    }

    fn add_enum(&mut self, index: usize, of: &EnumDescriptor) {
        self.add_symbol(index, of.full_name());
        of.values().for_each(|value| self.add_symbol(index, value.full_name()));
    }

    fn add_extension(&mut self, index: usize, extension: &ExtensionDescriptor) {
        self.add_symbol(index, extension.full_name());
        // The numbers of fields have 29 bits.
        if let Ok(number) = i32::try_from(extension.number()) {
            let extended = extension.containing_message().full_name().to_owned();
            self.by_extension.entry(extended).or_default().insert(number, index);
        }
    }

    fn add_symbol(&mut self, index: usize, name: &str) {
        self.by_symbol.entry(name.to_owned()).or_insert(index);
    }

    /// # Errors
    /// What there is not.
    fn find<'f>(&'f self, query: Query<'f>) -> Result<Found<'f>, String> {
        let file =
            |index: Option<&usize>| index.and_then(|index| self.encoded.get(*index)).map(|file| Found::File(file));
        match query {
            Query::FileName(name) => file(self.by_name.get(name)).ok_or_else(|| format!("there is no file {name}")),
            Query::Symbol(name) => file(self.by_symbol.get(name)).ok_or_else(|| format!("there is no symbol {name}")),
            Query::Extension(extended, number) => file(self.by_extension.get(extended).and_then(|of| of.get(&number)))
                .ok_or_else(|| format!("{extended} has no extension with the number {number}")),
            Query::ExtensionNumbers(extended) => {
                let numbers = self.by_extension.get(extended).map(|of| of.keys().copied().collect());
                let found = numbers.map(|numbers| Found::ExtensionNumbers(extended, numbers));
                found.ok_or_else(|| format!("there is no message {extended}"))
            }
            Query::Services => Ok(Found::Services(&self.services)),
        }
    }
}

/// Implements one version of the service. Only the names of its packages differ.
macro_rules! service {
    ($pb:ident) => {
        #[tonic::async_trait]
        impl $pb::server_reflection_server::ServerReflection for Reflection {
            type ServerReflectionInfoStream = BoxStream<'static, Result<$pb::ServerReflectionResponse, Status>>;

            async fn server_reflection_info(
                &self,
                request: Request<Streaming<$pb::ServerReflectionRequest>>,
            ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                let files = Arc::clone(&self.files);
                let answers = request.into_inner().map_ok(move |request| $pb::ServerReflectionResponse {
                    message_response: Some(files.$pb(request.message_request.as_ref())),
                    valid_host: request.host.clone(),
                    original_request: Some(request),
                });
                Ok(Response::new(answers.boxed()))
            }
        }

        impl Files {
            /// The answer. An error is one too: the stream goes on after it.
            fn $pb(
                &self,
                request: Option<&$pb::server_reflection_request::MessageRequest>,
            ) -> $pb::server_reflection_response::MessageResponse {
                use $pb::server_reflection_request::MessageRequest;
                use $pb::server_reflection_response::MessageResponse;
                let error = |code: Code, error_message: String| {
                    MessageResponse::ErrorResponse($pb::ErrorResponse { error_code: code.into(), error_message })
                };
                let query = match request {
                    Some(MessageRequest::FileByFilename(name)) => Query::FileName(name),
                    Some(MessageRequest::FileContainingSymbol(name)) => Query::Symbol(name),
                    Some(MessageRequest::FileContainingExtension(of)) => {
                        Query::Extension(&of.containing_type, of.extension_number)
                    }
                    Some(MessageRequest::AllExtensionNumbersOfType(name)) => Query::ExtensionNumbers(name),
                    Some(MessageRequest::ListServices(_)) => Query::Services,
                    None => return error(Code::InvalidArgument, "the request asks for nothing".to_owned()),
                };
                match self.find(query) {
                    Ok(Found::File(file)) => MessageResponse::FileDescriptorResponse($pb::FileDescriptorResponse {
                        file_descriptor_proto: vec![file.to_vec()],
                    }),
                    Ok(Found::ExtensionNumbers(name, extension_number)) => {
                        let base_type_name = name.to_owned();
                        MessageResponse::AllExtensionNumbersResponse($pb::ExtensionNumberResponse {
                            base_type_name,
                            extension_number,
                        })
                    }
                    Ok(Found::Services(services)) => {
                        let service = services.iter().map(|name| $pb::ServiceResponse { name: name.clone() }).collect();
                        MessageResponse::ListServicesResponse($pb::ListServiceResponse { service })
                    }
                    Err(missing) => error(Code::NotFound, missing),
                }
            }
        }
    };
}

service!(v1);
service!(v1alpha);
