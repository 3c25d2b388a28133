//! The live view: the terminal, the signals, and the calls of the service.

use std::{future::pending, time::Duration};

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    calls::organizations,
    state::{Reaction, TopState},
    view,
};
use crate::{
    client::{
        connection::{AuthorizedChannel, ConnectionArgs},
        failure::rpc_error,
    },
    grpc::proto::{ListOrganizationsResponse, quota_service_client::QuotaServiceClient},
    wall_clock,
};

/// How often ages are drawn anew.
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

/// The terminal in raw mode, with the screen of before behind it. Dropping it restores the terminal; so does a panic.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        Ok(Self(ratatui::try_init()?))
    }

    fn draw(&mut self, state: &mut TopState) -> anyhow::Result<()> {
        let height = self.0.size()?.height;
        state.set_height(view::rows_on(state, height));
        let now = wall_clock::now();
        self.0.draw(|frame| view::draw(frame, state, now))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// A call of the service. Dropping it abandons its answer.
type Call = AbortOnDropHandle<Result<ListOrganizationsResponse, String>>;

/// Shows the figures until the user quits, or a signal ends the program.
pub(super) async fn run(
    mut state: TopState,
    client: QuotaServiceClient<AuthorizedChannel>,
    connection: &ConnectionArgs,
    every: Duration,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut screen = Screen::open()?;
    let mut events = EventStream::new();
    let (mut reload, mut redraw) = (interval(every), interval(REDRAW_INTERVAL));
    reload.set_missed_tick_behavior(MissedTickBehavior::Delay);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut call: Option<Call> = None;
    loop {
        let reaction = tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => state.on_key(key),
                // The screen has another size, for example.
                Some(Ok(_)) => Reaction::Draw,
                Some(Err(error)) => return Err(error.into()),
                None => Reaction::Quit,
            },
            answer = answer_of(&mut call) => {
                state.update(answer);
                call = None;
                Reaction::Draw
            }
            _ = reload.tick(), if call.is_none() => Reaction::Reload,
            _ = redraw.tick() => Reaction::Draw,
            _ = terminate.recv() => Reaction::Quit,
            _ = interrupt.recv() => Reaction::Quit,
            _ = hangup.recv() => Reaction::Quit,
        };
        match reaction {
            Reaction::Quit => return Ok(()),
            Reaction::Reload => call = Some(start_call(&state, client.clone(), connection.clone())),
            Reaction::Draw => {}
        }
        screen.draw(&mut state)?;
    }
}

fn start_call(
    state: &TopState,
    client: QuotaServiceClient<AuthorizedChannel>,
    connection: ConnectionArgs,
) -> Call {
    let (order, filter) = (state.order, state.filter.clone());
    let wanted = state.wanted_organizations();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let answer = organizations(client, order, &filter, wanted).await;
        answer.map_err(|status| rpc_error(&connection, &status).to_string())
    }))
}

/// The answer of the call; while there is none, it never comes.
async fn answer_of(call: &mut Option<Call>) -> Result<ListOrganizationsResponse, String> {
    match call {
        Some(call) => call.await.unwrap_or_else(|error| Err(error.to_string())),
        None => pending().await,
    }
}
