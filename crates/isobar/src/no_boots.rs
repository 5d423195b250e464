//! Stands where the booting side will be.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use isobar_api::boots::{AvailableAction, Boots, Checkin, Exchange, Heartbeat};
use isobar_image::Image;
use isobar_model::ApiError;
use serde_json::{Map, Value};

/// No boots, no discs, no actions.
pub(crate) struct NoBoots;

fn nothing() -> ApiError {
    ApiError::new(501, "", "", "", "this server boots nothing yet")
}

#[async_trait]
impl Boots for NoBoots {
    async fn exchange(&self, _: Exchange) -> Result<String, ApiError> {
        Err(nothing())
    }
    async fn checkin(&self, _: Checkin) -> Result<Value, ApiError> {
        Err(nothing())
    }
    async fn heartbeat(&self, _: Heartbeat) -> Result<Value, ApiError> {
        Err(nothing())
    }
    async fn boots(&self, _: Option<&str>) -> Result<Vec<Value>, ApiError> {
        Ok(Vec::new())
    }
    async fn boot(&self, id: &str) -> Result<Value, ApiError> {
        Err(ApiError::not_found("GET", "boots", id))
    }
    async fn wait_boot(&self, id: &str, _: u64, _: Duration) -> Result<Value, ApiError> {
        self.boot(id).await
    }
    async fn isos(&self) -> Result<Vec<Value>, ApiError> {
        Ok(Vec::new())
    }
    async fn iso_image(&self, machine: &str, _: &str) -> Result<Arc<Image>, ApiError> {
        Err(ApiError::not_found("GET", "isos", machine))
    }
    async fn bases(&self) -> Result<Vec<Value>, ApiError> {
        Ok(Vec::new())
    }
    async fn import_base(&self, _: &str, _: std::fs::File) -> Result<Value, ApiError> {
        Err(nothing())
    }
    async fn actions(&self, _: &str) -> Result<Vec<AvailableAction>, ApiError> {
        Ok(Vec::new())
    }
    async fn action(&self, machine: &str, command: &str) -> Result<AvailableAction, ApiError> {
        Err(ApiError::action_not_found("machines", machine, command))
    }
    async fn run_action(
        &self,
        _: &str,
        key: &str,
        command: &str,
        _: Map<String, Value>,
        _: &str,
    ) -> Result<Value, ApiError> {
        Err(ApiError::action_unknown("machines", key, command))
    }
}
