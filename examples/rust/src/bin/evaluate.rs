//! Prints a flag's value with OpenFeature, and each change of it, until Ctrl-C: `evaluate in-process|rpc [KEY]`

use std::env;
use std::error::Error;
use std::time::Duration;

use open_feature::OpenFeature;
use open_feature_flagd::{FlagdOptions, FlagdProvider, ResolverType};
use tonic::transport::Uri;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mode = env::args().nth(1).unwrap_or("in-process".into());
    let key = env::args().nth(2).unwrap_or("checkout".into());
    let address: Uri = env::var("TOGGLED_ADDR").unwrap_or("http://localhost:50051".into()).parse()?;

    // in-process holds all flags, and keeps their last values while the server is lost. This provider cannot send a token, so
    // the server needs --anonymous-flagd-environments.
    let provider = FlagdProvider::new(FlagdOptions {
        host: address.host().unwrap_or("localhost").into(),
        port: address.port_u16().unwrap_or(50051),
        tls: address.scheme_str() == Some("https"),
        cert_path: env::var("TOGGLED_CA_CERTIFICATE").ok(),
        resolver_type: if mode == "rpc" { ResolverType::Rpc } else { ResolverType::InProcess },
        cache_settings: None, // the provider follows changes, but this cache does not: it would keep a value for a minute
        ..Default::default()
    })
    .await?;
    OpenFeature::singleton_mut().await.set_provider(provider).await;
    let flags = OpenFeature::singleton().await.create_client();

    let mut shown = String::new();
    loop {
        let value = match flags.get_bool_value(&key, None, None).await {
            Ok(value) => format!("{key}: {}", if value { "on" } else { "off" }),
            Err(error) => format!("{key}: off by default, {:?}: {}", error.code, error.message.unwrap_or_default()),
        };
        if value != shown {
            println!("{value}");
            shown = value;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
