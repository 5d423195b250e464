//! The booting side, as the API asks for it.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use isobar_api::boots::{AvailableAction, Boots, Checkin, Console, Exchange, Heartbeat, Typed, Which};
use isobar_boot::actions::{self, Action};
use isobar_boot::bases::ImportError;
use isobar_boot::{BootView, Booter, Key, OperationView, RollingOrder};
use isobar_image::Image;
use isobar_model::ApiError;
use isobar_objects::{Objects, Principal};
use isobar_store::StoreError;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

/// [`Booter`] behind the API's trait; what may wait for the disk goes to threads that may.
pub(crate) struct BootsOf {
    booter: Booter,
    objects: Objects,
    /// Whether the actions of BMCs are offered.
    ipmi: bool,
}

impl BootsOf {
    pub(crate) fn new(booter: Booter, objects: Objects, ipmi: bool) -> Self {
        Self { booter, objects, ipmi }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Booter) -> T + Send + 'static) -> T {
        let booter = self.booter.clone();
        self.objects.run(move |_| work(&booter)).await
    }
}

fn store_failed(error: &StoreError) -> ApiError {
    let code = if matches!(error, StoreError::Full { .. }) {
        507
    } else {
        500
    };
    ApiError::new(code, "STORE_ERROR", "", "", error.to_string())
}

fn value(view: &BootView) -> Result<Value, ApiError> {
    serde_json::to_value(view).map_err(|error| ApiError::new(500, "GET", "boots", &view.id, error.to_string()))
}

fn operation(view: &OperationView) -> Result<Value, ApiError> {
    serde_json::to_value(view).map_err(|error| ApiError::new(500, "GET", "operations", &view.id, error.to_string()))
}

fn available(action: &Action) -> AvailableAction {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let mut required = owned(actions::REQUIRED);
    required.extend(owned(action.extra));
    AvailableAction {
        provider: actions::PROVIDER.to_owned(),
        model: "machines".to_owned(),
        command: action.command.to_owned(),
        required_params: required,
        optional_params: [owned(actions::OPTIONAL), owned(action.optional)].concat(),
    }
}

#[async_trait]
impl Boots for BootsOf {
    async fn exchange(&self, request: Exchange) -> Result<String, ApiError> {
        self.booter
            .exchange(&request.machine, &request.attempt, &request.secret, &request.nonce)
            .await
    }

    async fn checkin(&self, request: Checkin) -> Result<Value, ApiError> {
        tracing::info!(
            machine = request.machine,
            attempt = request.attempt,
            version = request.version,
            uptime_s = request.uptime_s,
            "an agent checked in"
        );
        self.booter
            .checkin(&request.machine, &request.attempt, request.root_in_memory)
            .await
    }

    async fn heartbeat(&self, request: Heartbeat) -> Result<Value, ApiError> {
        Ok(self.booter.heartbeat(&request.machine, &request.attempt))
    }

    async fn boots(&self, which: Which) -> Result<Vec<Value>, ApiError> {
        let Which { machine, state, limit } = which;
        let boots = self
            .run(move |booter| booter.boots(machine.as_deref(), state.as_deref(), limit))
            .await;
        boots.map_err(|e| store_failed(&e))?.iter().map(value).collect()
    }

    async fn boot(&self, id: &str) -> Result<Value, ApiError> {
        let key = id.to_owned();
        match self.run(move |booter| booter.boot(&key)).await {
            Ok(Some(view)) => value(&view),
            Ok(None) => Err(ApiError::not_found("GET", "boots", id)),
            Err(error) => Err(store_failed(&error)),
        }
    }

    async fn wait_boot(&self, id: &str, after: u64, wait: Duration) -> Result<Value, ApiError> {
        match self.booter.wait_boot(id, after, wait).await {
            Ok(Some(view)) => value(&view),
            Ok(None) => Err(ApiError::not_found("GET", "boots", id)),
            Err(error) => Err(store_failed(&error)),
        }
    }

    async fn post_mortem(&self, id: &str) -> Result<Value, ApiError> {
        let key = id.to_owned();
        let read = self.run(move |booter| booter.post_mortem(&key)).await;
        let failed = |text: String| ApiError::new(500, "GET", "boots", id, text);
        match read.map_err(|error| failed(error.to_string()))? {
            Some(text) => serde_json::from_slice(&text).map_err(|error| failed(error.to_string())),
            None => Err(ApiError::new(
                404,
                "GET",
                "boots",
                id,
                "no post-mortem is kept of this boot: it did not fail, failed before its BMC was asked, or is too old",
            )),
        }
    }

    async fn isos(&self) -> Result<Vec<Value>, ApiError> {
        self.run(Booter::isos).await.map_err(|e| store_failed(&e))
    }

    async fn iso_image(&self, machine: &str, bootenv: &str) -> Result<Arc<Image>, ApiError> {
        let (uuid, env) = (machine.to_owned(), bootenv.to_owned());
        match self.run(move |booter| booter.iso_image(&uuid, &env)).await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => Err(ApiError::not_found("GET", "isos", &format!("{machine}/{bootenv}"))),
            Err(error) => Err(store_failed(&error)),
        }
    }

    async fn bases(&self) -> Result<Vec<Value>, ApiError> {
        let rows = self.run(|booter| booter.bases().rows()).await;
        let rows = rows.map_err(|e| store_failed(&e))?;
        Ok(rows
            .iter()
            .map(|row| json!({ "name": row.name, "digest": row.digest, "size": row.size, "version": row.version }))
            .collect())
    }

    async fn import_base(&self, name: &str, tar: File, by: &Principal) -> Result<Value, ApiError> {
        let (key, by) = (name.to_owned(), by.clone());
        let objects = self.objects.clone();
        self.run(move |booter| {
            let row = booter
                .bases()
                .import(&key, &mut BufReader::with_capacity(1 << 20, tar), &by)
                .map_err(|error| import_failed(&key, &error))?;
            tracing::info!(
                name = row.name,
                digest = row.digest,
                version = row.version,
                "imported a base"
            );
            // Bootenvs that waited for these files become available.
            objects.refresh()?;
            Ok(json!({ "name": row.name, "digest": row.digest, "size": row.size, "version": row.version }))
        })
        .await
    }

    async fn actions(&self, machine: &str) -> Result<Vec<AvailableAction>, ApiError> {
        if !self.ipmi {
            return Ok(Vec::new());
        }
        let uuid = machine.to_owned();
        self.run(move |booter| {
            let mut found = Vec::new();
            for action in actions::ACTIONS {
                if booter.missing_param(&uuid, action)?.is_none() {
                    found.push(available(action));
                }
            }
            Ok(found)
        })
        .await
    }

    async fn action(&self, machine: &str, command: &str) -> Result<AvailableAction, ApiError> {
        let Some(action) = Booter::action(command).filter(|_| self.ipmi) else {
            return Err(ApiError::action_not_found("machines", machine, command));
        };
        let uuid = machine.to_owned();
        match self.run(move |booter| booter.missing_param(&uuid, action)).await? {
            None => Ok(available(action)),
            Some(param) => Err(ApiError::action_missing_param(
                "GET", "machines", machine, command, param,
            )),
        }
    }

    async fn run_action(
        &self,
        machine: &str,
        key: &str,
        command: &str,
        params: Map<String, Value>,
        by: &Principal,
    ) -> Result<Value, ApiError> {
        if Booter::action(command).is_none() {
            return Err(ApiError::action_unknown("machines", key, command));
        }
        self.booter.run_action(machine, key, command, params, by).await
    }

    async fn doctor(&self, machine: &str, key: &str, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError> {
        self.booter.doctor(machine, key, by).await
    }

    async fn record(&self, machine: &str, key: &str, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError> {
        self.booter.walk(machine, key, by).await
    }

    async fn scan(&self, request: Value, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError> {
        // What serde says of a wrong request has no values of it.
        let request = serde_json::from_value(request)
            .map_err(|error| ApiError::new(400, "POST", "bmcs", "scan", error.to_string()))?;
        self.booter.scan(request, by)
    }

    async fn open_console(
        &self,
        machine: &str,
        key: &str,
        take_over: bool,
        by: &Principal,
    ) -> Result<Console, ApiError> {
        let opened = self.booter.open_console(machine, key, take_over, by).await?;
        Ok(Console {
            id: opened.id,
            screen: opened.screen,
        })
    }

    async fn type_into(&self, machine: &str, console: &str, typed: Typed) -> Result<(), ApiError> {
        let key = match typed {
            Typed::Text(text) => Key::Text(text),
            Typed::Break => Key::Break,
        };
        self.booter.type_into(machine, console, key).await
    }

    async fn operations(&self, machine: Option<&str>, all: bool) -> Result<Vec<Value>, ApiError> {
        let machine = machine.map(str::to_owned);
        let found = self.run(move |booter| booter.operations(machine.as_deref(), all)).await;
        let found = found.map_err(|e| store_failed(&e))?;
        found.iter().map(operation).collect()
    }

    async fn operation(&self, id: &str) -> Result<Value, ApiError> {
        let key = id.to_owned();
        match self.run(move |booter| booter.operation(&key)).await {
            Ok(Some(view)) => operation(&view),
            Ok(None) => Err(ApiError::not_found("GET", "operations", id)),
            Err(error) => Err(store_failed(&error)),
        }
    }

    async fn rolling_boot(&self, order: Map<String, Value>, by: &Principal) -> Result<Value, ApiError> {
        let order: RollingOrder = serde_json::from_value(order.into())
            .map_err(|error| ApiError::new(400, "POST", "operations", "", format!("the body does not fit: {error}")))?;
        let by = by.clone();
        self.run(move |booter| match order.dry_run {
            true => {
                let found = booter.candidates(&order, &by)?;
                serde_json::to_value(found).map_err(|e| ApiError::new(500, "POST", "operations", "", e.to_string()))
            }
            false => operation(&booter.begin_rolling(&order, &by)?),
        })
        .await
    }

    async fn rolling_report(&self, id: &str) -> Result<Value, ApiError> {
        let key = id.to_owned();
        let report = self.run(move |booter| booter.rolling_report(&key)).await;
        match report.map_err(|e| store_failed(&e))? {
            Some(report) => serde_json::to_value(report)
                .map_err(|error| ApiError::new(500, "GET", "operations", id, error.to_string())),
            None => Err(ApiError::not_found("GET", "operations", id)),
        }
    }

    async fn cancel_operation(&self, id: &str, by: &Principal) -> Result<Value, ApiError> {
        let (key, by) = (id.to_owned(), by.clone());
        operation(&self.run(move |booter| booter.cancel_operation(&key, &by)).await?)
    }

    async fn retry_operation(&self, id: &str, by: &Principal) -> Result<Value, ApiError> {
        operation(&self.booter.retry_operation(id, by).await?)
    }
}

fn import_failed(name: &str, error: &ImportError) -> ApiError {
    let code = match error {
        ImportError::Store(error) => return store_failed(error),
        ImportError::Io(error) if error.kind() == ErrorKind::StorageFull => 507,
        _ => 422,
    };
    let mut answer = ApiError::new(code, "POST", "bases", name, error.to_string());
    if code == 507 {
        answer
            .messages
            .push("nothing half was kept: free some space there, then import again".to_owned());
    }
    answer
}
