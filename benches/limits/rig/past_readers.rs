//! Callers who ask all the time what a flag was during the last second, while something else is measured.

use std::time::{Duration, SystemTime};

use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::api::pb::{GetFeatureFlagRequest, get_feature_flag_request};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::callers::{Callers, join_all};
use super::requests::{token, with_token};
use crate::Result;

/// How many callers ask.
pub const CALLERS: usize = 50;

/// How often each of them asks. Paced, so that every build gets the same questions however fast it answers.
const INTERVAL: Duration = Duration::from_millis(100);

/// The callers, while they ask.
pub struct PastReaders {
    callers: JoinSet<Result<()>>,
    stop: CancellationToken,
}

impl PastReaders {
    /// Starts to ask.
    pub fn start(of: &Callers) -> Result<Self> {
        let (mut callers, stop) = (JoinSet::new(), CancellationToken::new());
        for caller in 0..CALLERS {
            let (mut client, token, stop) = (ToggleServiceClient::new(of.channel(caller)), token()?, stop.clone());
            callers.spawn(async move {
                let mut ticks = interval(INTERVAL);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                // Each caller asks about another moment of the last second, the first one about the present.
                let age = Duration::from_secs(1) * u32::try_from(caller)? / u32::try_from(CALLERS)?;
                while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                    let request = GetFeatureFlagRequest {
                        flag: Some(get_feature_flag_request::Flag::Key("flag-1".to_owned())),
                        as_of_time: Some((SystemTime::now() - age).into()),
                        ..Default::default()
                    };
                    client.get_feature_flag(with_token(request, &token)).await?;
                }
                Ok(())
            });
        }
        Ok(Self { callers, stop })
    }

    /// Stops asking. Fails if a question was not answered.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        join_all(self.callers).await.map(drop)
    }
}
