//! Prints whether the flag `checkout` is on.

use open_feature::OpenFeature;
use open_feature_flagd::{FlagdOptions, FlagdProvider, ResolverType};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = FlagdProvider::new(FlagdOptions {
        host: "localhost".into(),
        port: 50051, // to another machine also tls: true, and the crate's feature tls-ring
        resolver_type: ResolverType::InProcess,
        cache_settings: None, // the provider follows changes, but this cache does not: it would keep a value for a minute
        ..Default::default()
    })
    .await?;
    OpenFeature::singleton_mut().await.set_provider(provider).await;

    let flags = OpenFeature::singleton().await.create_client();
    let checkout = flags.get_bool_value("checkout", None, None).await.unwrap_or(false);
    println!("checkout: {checkout}");
    Ok(())
}
