//! The codec of all messages: prost's, for messages with a limited number of fields.
//!
//! A field takes two bytes on the wire, and up to a hundred in memory. So without this limit, a request of 4 MiB would take some hundred.

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::errors::{Limit, status};

/// The most fields of a message together with the messages in it. The largest request has a thousand items of three fields; the largest
/// answer, two thousand entries of the log, has less than half of this number.
pub(super) const MAX_FIELDS: usize = 1 << 17;

/// Encodes `T` and decodes `U`.
pub(crate) struct BoundedCodec<T, U>(ProstCodec<T, U>);

/// Decodes messages with at most [`MAX_FIELDS`].
pub(crate) struct BoundedDecoder<U>(ProstDecoder<U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(self.0.decoder())
    }
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use prost::bytes::Buf;
        // The whole message, which tonic keeps in one piece.
        check_fields(buffer.chunk())?;
        self.0.decode(buffer)
    }
}

/// Counts the fields of a message, and of the messages in it.
fn check_fields(message: &[u8]) -> Result<(), Status> {
    let mut left = MAX_FIELDS;
    take_fields(message, 2, &mut left).ok_or_else(|| status(Limit::MessageFields.reached(MAX_FIELDS)))
}

/// Takes the fields of a message from those that are left; `None` when there are more. What follows a malformed field does not count, since
/// prost does not decode it either. A text counts by what it would hold if it were a message, which is next to nothing.
fn take_fields(mut message: &[u8], depth: usize, left: &mut usize) -> Option<()> {
    while let Ok((tag, wire_type)) = decode_key(&mut message) {
        *left = left.checked_sub(1)?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut message).ok().and_then(|length| usize::try_from(length).ok());
            let Some((value, rest)) = length.and_then(|length| message.split_at_checked(length)) else { break };
            message = rest;
            if depth > 1 {
                take_fields(value, depth - 1, left)?;
            }
        } else if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            break;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
    use prost_types::FieldMask;

    use super::*;
    use crate::api::pb::{self, BatchSetFeatureFlagsRequest, BatchSetItem, UpdateFeatureFlagRequest};
    use crate::api::router::SERVICES;

    #[test]
    fn fields_are_limited() {
        let items =
            |count| BatchSetFeatureFlagsRequest { items: vec![BatchSetItem::default(); count], ..Default::default() };
        assert!(check_fields(&items(MAX_FIELDS).encode_to_vec()).is_ok());
        let refused = check_fields(&items(MAX_FIELDS + 1).encode_to_vec()).unwrap_err();
        assert!(refused.message().contains("131072"), "{refused}");
        for passed in [&[][..], &[0xff; 11], &[0x0a, 5, 1], &[0x0a, 2, 0x0a, 5]] {
            assert!(check_fields(passed).is_ok());
        }
    }

    #[test]
    fn fields_of_inner_messages_count() {
        let paths = |count| UpdateFeatureFlagRequest {
            update_mask: Some(FieldMask { paths: vec![String::new(); count] }),
            ..Default::default()
        };
        assert!(check_fields(&paths(MAX_FIELDS - 1).encode_to_vec()).is_ok());
        let mut more = paths(MAX_FIELDS).encode_to_vec();
        assert!(check_fields(&more).is_err());
        more.push(0xff);
        assert!(check_fields(&more).is_err(), "what is malformed after them does not matter");
    }

    /// What is not counted is small: a message in a message of a request holds no further one.
    #[test]
    fn messages_in_requests_hold_no_messages() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let services = SERVICES.iter().map(|name| pool.get_service_by_name(name).unwrap());
        let inputs = services.flat_map(|service| service.methods().map(|method| method.input()).collect::<Vec<_>>());
        // The build script keeps them encoded.
        let is_context = |message: &MessageDescriptor| message.full_name() == "google.protobuf.Struct";
        for field in inputs.flat_map(|input| input.fields().collect::<Vec<_>>()) {
            let Kind::Message(message) = field.kind() else { continue };
            let holds_none = message.fields().all(|field| !matches!(field.kind(), Kind::Message(_)));
            assert!(holds_none || is_context(&message), "{}", field.full_name());
        }
        assert!(pb::flagd::evaluation::v1::ResolveBooleanRequest::default().context.is_empty(), "bytes");
    }
}
