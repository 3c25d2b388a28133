//! A real Chromium, driven by WebDriver.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::{
    free_port,
    tools::{WAIT_TIMEOUT, tool},
};

/// More at a time are not faster: mostly they wait for the next refresh of a page.
static BROWSERS: Semaphore = Semaphore::const_new(3);

/// The viewer's time zone, always 5 h 30 min ahead of UTC.
const TIME_ZONE: &str = "Asia/Kolkata";

pub struct Browser {
    client: Client,
    driver: Child,
    port: u16,
    session: String,
    _permit: SemaphorePermit<'static>,
}

/// A command of Chromium's driver beyond WebDriver.
#[derive(Debug)]
struct DriverCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for DriverCommand {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    pub async fn start() -> Self {
        let permit = BROWSERS.acquire().await.unwrap();
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("TZ", TIME_ZONE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("the tests need chromedriver: ./scripts/test installs it: {error}")
            });
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--lang=en-US",
            "--window-size=1280,900",
        ];
        let mut options = json!({"args": args});
        // One that ./scripts/test has fetched; otherwise the driver finds that of the system.
        let fetched = tool("bin").join("chromium");
        if fetched.exists() {
            options["binary"] = json!(fetched);
        }
        let capabilities = json!({
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let capabilities = capabilities.as_object().unwrap().clone();
        let address = format!("http://127.0.0.1:{port}");
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "chromedriver does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&address)
            .await
            .unwrap();
        let session = client.session_id().await.unwrap().unwrap();
        Self {
            client,
            driver,
            port,
            session,
            _permit: permit,
        }
    }

    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// The result of a script, which returns it.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// The text of the first element of a selector, as it is shown, with single spaces.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!(
            "return (document.querySelector({}) || {{innerText: ''}}).innerText.replace(/\\s+/g, ' ').trim()",
            json!(selector)
        );
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// The texts of all elements of a selector.
    pub async fn texts(&self, selector: &str) -> Vec<String> {
        let script = format!(
            "return [...document.querySelectorAll({})].map((it) => it.textContent.replace(/\\s+/g, ' ').trim())",
            json!(selector)
        );
        serde_json::from_value(self.run(&script).await).unwrap()
    }

    /// Waits until a script returns `true`.
    pub async fn wait_for(&self, condition: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.run(&format!("return !!({condition})")).await != json!(true) {
            if Instant::now() > deadline {
                let page = self.run("return document.body.innerText").await;
                panic!("never: {condition}\n{}", page.as_str().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the text of an element has a part.
    pub async fn wait_for_text(&self, selector: &str, part: &str) {
        let (selector, part) = (json!(selector), json!(part));
        let text = format!("(document.querySelector({selector})?.innerText ?? '')");
        let condition = format!("{text}.replace(/\\s+/g, ' ').includes({part})");
        self.wait_for(&condition).await;
    }

    /// Types into an element, key by key.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let locator = fantoccini::Locator::Css(selector);
        let element = self.client.find(locator).await.unwrap();
        element.send_keys(text).await.unwrap();
    }

    /// Presses a key where the focus is.
    pub async fn press(&self, key: &str) {
        let focused = self.client.active_element().await.unwrap();
        focused.send_keys(key).await.unwrap();
    }

    pub async fn click(&self, selector: &str) {
        let locator = fantoccini::Locator::Css(selector);
        let element = self.client.find(locator).await.unwrap();
        element.click().await.unwrap();
    }

    pub async fn is_there(&self, selector: &str) -> bool {
        let script = format!(
            "return document.querySelector({}) !== null",
            json!(selector)
        );
        self.run(&script).await == json!(true)
    }

    /// Prefers light or dark colours.
    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        let media = json!({"features": [feature]});
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// Has a window of this width.
    pub async fn set_width(&self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    async fn devtools(&self, cmd: &str, params: Value) {
        let command = DriverCommand {
            path: "goog/cdp/execute",
            body: json!({"cmd": cmd, "params": params}),
        };
        self.client.issue_cmd(command).await.unwrap();
    }

    /// What the browser has reported since the last call: errors of scripts, of loading, and of the content security
    /// policy.
    pub async fn console(&self) -> Vec<String> {
        let command = DriverCommand {
            path: "se/log",
            body: json!({"type": "browser"}),
        };
        let entries = self.client.issue_cmd(command).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        entries
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What axe finds that is serious or critical.
    pub async fn accessibility_faults(&self) -> Vec<String> {
        let found = tool("venv/lib")
            .read_dir()
            .unwrap()
            .map(|it| it.unwrap().path());
        let axe = found.map(|it| it.join("site-packages/axe_playwright_python/axe.min.js"));
        let axe = axe.into_iter().find(|it| it.exists());
        let axe = fs::read_to_string(axe.expect("./scripts/test installs axe")).unwrap();
        self.run(&axe).await;
        let script = "const done = arguments[arguments.length - 1];
            axe.run().then((result) => done(result.violations
                .filter(({impact}) => impact === 'serious' || impact === 'critical')
                .map(({id, nodes}) => `${id}: ${nodes.map((node) => node.html).join(' | ')}`)))
            .catch((error) => done([String(error)]))";
        let faults = self.client.execute_async(script, Vec::new()).await.unwrap();
        serde_json::from_value(faults).unwrap()
    }

    /// Saves what the window shows as a PNG in the folder that `TOLLGATE_SCREENSHOTS` names, if it does.
    pub async fn screenshot(&self, name: &str) {
        if let Some(folder) = std::env::var_os("TOLLGATE_SCREENSHOTS") {
            let picture = self.client.screenshot().await.unwrap();
            let file = std::path::Path::new(&folder).join(format!("{name}.png"));
            fs::write(file, picture).unwrap();
        }
    }
}

impl Drop for Browser {
    /// Ends the session first: otherwise Chromium would outlive its driver.
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let (session, port) = (&self.session, self.port);
            let request = format!(
                "DELETE /session/{session} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(request.as_bytes());
            // The driver answers once Chromium has ended, and keeps the connection.
            let _ = stream.read(&mut [0; 1024]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
