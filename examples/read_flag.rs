//! Prints whether the flag `checkout` is on.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use open_feature::OpenFeature;
use open_feature_ofrep::{OfrepOptions, OfrepProvider};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bearer = format!("Bearer {}", std::env::var("TOKEN")?);
    let provider = OfrepProvider::new(OfrepOptions {
        base_url: "http://localhost:50051".into(),
        headers: HeaderMap::from_iter([(AUTHORIZATION, bearer.parse()?)]),
        ..Default::default()
    })
    .await?;
    OpenFeature::singleton_mut().await.set_provider(provider).await;

    let flags = OpenFeature::singleton().await.create_client();
    let checkout = flags.get_bool_value("checkout", None, None).await.unwrap_or(false);
    println!("checkout: {checkout}");
    Ok(())
}
