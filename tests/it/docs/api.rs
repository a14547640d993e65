//! Generates the API reference from the comments of the .proto files.

use std::collections::BTreeSet;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor,
};
use toggled::api::pb::DESCRIPTORS;

use super::links::anchor;
use super::markdown::{cell, paragraphs, table};

const PACKAGE: &str = "toggled.v1";

const INTRODUCTION: &str = "\
# API

With this page you look up every method, with the meaning, limits, defaults and errors of each field. `make docs` writes it from
the comments in [`proto/toggled/v1`](../proto/toggled/v1), which is the contract. Clients generated from those files carry the
same comments.

Call a method as `toggled.v1.SERVICE/METHOD`, with a token in the metadata: `authorization: Bearer TOKEN`. The permission that
a method requires stands below its name. Requests and responses may have up to 4 MiB, and responses of flagd's services, which
hold all flags at once, up to 64 MiB (`--max-flag-set-mib`). Every [limit](configuration.md#limits) names itself where it is reached.

On the same port are also:

- `grpc.health.v1.Health` and reflection (v1 and v1alpha), which need no token
- [flagd's services](#flagds-services), for [OpenFeature](clients.md#openfeature)
- every method by [Connect](clients.md#connect), as JSON or protobuf over plain HTTP, and by gRPC-Web
- OFREP, the [OpenFeature Remote Evaluation Protocol](https://github.com/open-feature/protocol), for [clients without
  gRPC](clients.md#without-grpc): `POST /ofrep/v1/evaluate/flags/KEY` and `POST /ofrep/v1/evaluate/flags`, whose answer has the address
  of a stream of changes

## Changes

Every change takes a `reason`, a `request_id` (at most once, for 24 hours) and `validate_only`. Changes of one existing
object also take an `expected_revision`. Every answer to a change carries a `revision`. Pass it as `min_revision` to a read
on any replica, and you read your own write.

## Errors and retries

Every error carries a `google.rpc.ErrorInfo` whose reason is one of [ErrorReason](#errorreason). Decide on the reason, not on
the message.

| code | reason | what happened | what to do |
|---|---|---|---|
| UNAVAILABLE | any | nothing was written | retry |
| DEADLINE_EXCEEDED, UNAVAILABLE, CANCELLED, others | none: your client or a proxy made it. Its own timer fired first, or it lost the connection | unknown | retry with the same `request_id` |
| UNKNOWN | `COMMIT_OUTCOME_UNKNOWN` | unknown | retry with the same `request_id` |
| DEADLINE_EXCEEDED | `DEADLINE_DURING_CHANGE` | unknown | retry with the same `request_id` |
| DEADLINE_EXCEEDED | any other | no change was made | retry with a longer deadline |
| RESOURCE_EXHAUSTED | `RATE_LIMITED` and other limits | nothing was written | slow down; `RetryInfo` says how long to wait, if it is there |
| all others | any | nothing was written | correct the request, or report a defect |

Where a retry of the same request would fail again, the trailer `grpc-retry-pushback-ms` is `-1`. gRPC's clients with a retry policy then
fail at once, whichever codes they retry.

## Contents
";

const FLAGD: &str = "\
For [OpenFeature](clients.md#openfeature) providers. These are [flagd's protocols](https://flagd.dev/reference/specifications/protos/),
unchanged. The comments in [`proto/flagd`](../proto/flagd) say what this service answers. The server also speaks OFREP over plain
HTTP, which [OpenFeature specifies](https://github.com/open-feature/protocol).
";

/// The content of docs/api.md.
pub fn reference() -> String {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let ours = |package: &str| package == PACKAGE;
    let services: Vec<_> = pool.services().filter(|service| ours(service.package_name())).collect();
    let methods = || services.iter().flat_map(ServiceDescriptor::methods);
    // Requests and responses are described with their method, all other messages in a section of their own.
    let own: BTreeSet<String> =
        methods().flat_map(|method| [method.input(), method.output()]).map(|m| m.full_name().to_owned()).collect();
    let mut messages: Vec<_> = pool.all_messages().filter(|m| ours(m.package_name())).collect();
    messages.retain(|message| !own.contains(message.full_name()));
    messages.sort_by(|a, b| a.name().cmp(b.name()));
    let enums: Vec<_> = pool.all_enums().filter(|one| ours(one.package_name())).collect();

    let mut text = format!("{INTRODUCTION}\n{}", contents(&services, &messages, &enums));
    for service in &services {
        text += &self::service(&pool, service);
    }
    text += "\n## Messages\n";
    for message in &messages {
        text += &format!("\n### {}\n\n{}", message.name(), self::message(message));
    }
    text += "\n## Enums\n";
    for one in &enums {
        text += &format!("\n### {}\n\n{}", one.name(), self::enumeration(one));
    }
    text += &flagd(&pool);
    link_names(&text)
}

/// Links the names of methods and enums to their headings. Names of a single word may be plain English, and are skipped.
fn link_names(text: &str) -> String {
    let headings: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let named = |word: &str| headings.contains(word) && word.matches(char::is_uppercase).count() > 1;
    let line = |line: &str| {
        if line.starts_with('#') {
            return format!("{line}\n");
        }
        let words = line.split_inclusive(' ').map(|word| {
            let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '[' && c != ']');
            let code = format!("`{bare}`");
            let shown = if word.contains(&code) { code.as_str() } else { bare };
            if named(bare) {
                word.replacen(shown, &format!("[{shown}](#{})", anchor(bare)), 1)
            } else {
                word.to_owned()
            }
        });
        words.collect::<String>() + "\n"
    };
    text.lines().map(line).collect()
}

fn contents(services: &[ServiceDescriptor], messages: &[MessageDescriptor], enums: &[EnumDescriptor]) -> String {
    let listed = |names: Vec<String>| names.join(",\n  ");
    let mut text = String::new();
    for service in services {
        let methods = service.methods().map(|method| link(method.name())).collect();
        text += &format!("- {}: {}\n", link(service.name()), listed(methods));
    }
    let messages = messages.iter().map(|message| link(message.name())).collect();
    let enums = enums.iter().map(|one| link(one.name())).collect();
    text += &format!("- {}: {}\n- {}: {}\n", link("Messages"), listed(messages), link("Enums"), listed(enums));
    text + &format!("- {}\n", link("flagd's services"))
}

fn link(heading: &str) -> String {
    format!("[{heading}](#{})", anchor(heading))
}

fn service(pool: &DescriptorPool, service: &ServiceDescriptor) -> String {
    let comment = comment(&service.parent_file(), service.path());
    let mut text = format!("\n## {}\n\n{}\n", service.name(), paragraphs(&comment));
    for method in service.methods() {
        text += &self::method(pool, &method);
    }
    text
}

fn method(pool: &DescriptorPool, method: &MethodDescriptor) -> String {
    let comment = comment(&method.parent_service().parent_file(), method.path());
    let (input, output) = (method.input(), method.output());
    let stream = if method.is_server_streaming() { ", a stream" } else { "" };
    let mut text = format!("\n### {}\n\n", method.name());
    text += &format!("Needs {}.\n\n{}\n", requirement(pool, method), paragraphs(&comment));
    for (what, message) in
        [(format!("Takes `{}`", input.name()), input), (format!("Gives `{}`{stream}", output.name()), output)]
    {
        text += &format!("\n**{what}.** {}", self::message(&message));
    }
    text
}

/// What a method requires of its caller.
fn requirement(pool: &DescriptorPool, method: &MethodDescriptor) -> String {
    let policy = pool.get_extension_by_name("toggled.v1.policy").unwrap();
    let options = method.options();
    let declared = options.get_extension(&policy);
    let permission = declared.as_message().unwrap().get_field_by_name("permission").unwrap();
    let permission = permission.as_str().unwrap();
    if permission.is_empty() { "a valid token".to_owned() } else { format!("the permission `{permission}`") }
}

fn message(message: &MessageDescriptor) -> String {
    let comment = paragraphs(&comment(&message.parent_file(), message.path()));
    let rows: Vec<_> = message.fields().map(|field| row(&field)).collect();
    let fields =
        if rows.is_empty() { "It has no fields.\n".to_owned() } else { table(&["field", "type", "meaning"], &rows) };
    format!("{comment}\n\n{fields}")
}

fn row(field: &FieldDescriptor) -> Vec<String> {
    let file = field.parent_message().parent_file();
    let chosen = field.containing_oneof().filter(|_| !field.field_descriptor_proto().proto3_optional());
    let mut kind = kind(field);
    if field.is_list() {
        kind = format!("repeated {kind}");
    } else if field.field_descriptor_proto().proto3_optional() {
        kind = format!("optional {kind}");
    }
    let mut meaning = cell(&comment(&file, field.path()));
    if let Some(group) = chosen {
        let others: Vec<_> = group.fields().map(|other| format!("`{}`", other.name())).collect();
        meaning = format!("One of {}. {} {meaning}", others.join(", "), cell(&comment(&file, group.path())));
    }
    vec![format!("`{}`", field.name()), kind, meaning]
}

fn kind(field: &FieldDescriptor) -> String {
    let named = |package: &str, name: &str, full: &str| if package == PACKAGE { link(name) } else { full.to_owned() };
    match field.kind() {
        Kind::Message(message) => named(message.package_name(), message.name(), message.full_name()),
        Kind::Enum(one) => named(one.package_name(), one.name(), one.full_name()),
        scalar => format!("{scalar:?}"),
    }
}

fn enumeration(one: &EnumDescriptor) -> String {
    let file = one.parent_file();
    let rows: Vec<_> = one
        .values()
        .map(|value| {
            vec![format!("`{}`", value.name()), value.number().to_string(), cell(&comment(&file, value.path()))]
        })
        .collect();
    let comment = paragraphs(&comment(&file, one.path()));
    format!("{comment}\n\n{}", table(&["name", "number", "meaning"], &rows))
}

fn flagd(pool: &DescriptorPool) -> String {
    let mut text = format!("\n## flagd's services\n\n{FLAGD}\n");
    for service in pool.services().filter(|service| service.package_name().starts_with("flagd.")) {
        let methods: Vec<_> = service.methods().map(|method| format!("`{}`", method.name())).collect();
        let needed: BTreeSet<_> = service.methods().map(|method| requirement(pool, &method)).collect();
        let file = service.parent_file();
        text += &format!(
            "- `{}` ([its file](../proto/{})): {}; needs {}\n",
            service.full_name(),
            file.name(),
            methods.join(", "),
            needed.into_iter().collect::<Vec<_>>().join(" or ")
        );
    }
    text
}

/// The leading comment of an element of a .proto file.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let locations = file.file_descriptor_proto().source_code_info.as_ref().unwrap().location.iter();
    let here = locations.filter(|location| location.path == path).find_map(|here| here.leading_comments.clone());
    here.unwrap_or_default().trim().to_owned()
}
