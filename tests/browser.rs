//! The pages in a headless Chromium, spoken to over its DevTools protocol: no error, no request, the text is there.
//! DOCRE_CHROMIUM names the program (`scripts/chromium.sh` finds or fetches one); with DOCRE_SCREENSHOTS, a directory,
//! pictures of the pages are left there.
#![cfg(unix)]

use docre::train::log::Log;
use docre::train::{Config, End};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    /// Events that have come while an answer was waited for.
    events: Vec<Value>,
    asked: u64,
    session: Option<String>,
    _profile: tempfile::TempDir,
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: two places for two descriptors, which are owned by nobody else.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

impl Browser {
    /// It reads messages from descriptor 3 and writes them to 4, a zero byte after each.
    fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let ((its_input, to), (from, its_output)) = (pipe(), pipe());
        let (input, output) = (its_input.as_raw_fd(), its_output.as_raw_fd());
        let mut command = Command::new(program);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let wire = move || {
            // SAFETY: plain system calls between fork and exec; 10 and 11 are free, or close anyway.
            let done = unsafe {
                [(input, 10), (output, 11), (10, 3), (11, 4)].iter().all(|&(old, new)| libc::dup2(old, new) == new)
            };
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: `wire` allocates nothing.
        let child = unsafe { command.pre_exec(wire) }.spawn().unwrap();
        let (send, receive) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(from).split(0) {
                let Ok(message) = message else { return };
                if send.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut browser =
            Browser { child, to, from: receive, events: vec![], asked: 0, session: None, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_string);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn next(&mut self) -> Value {
        self.from.recv_timeout(Duration::from_secs(60)).expect("an answer of the browser within a minute")
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let mut message = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut answer = self.next();
            if answer["id"] == json!(self.asked) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    /// Opens a file; what it asked for beside itself, and what went wrong.
    fn open(&mut self, page: &Path) -> Vec<String> {
        self.events.clear();
        let url = format!("file://{}", page.display());
        self.call("Page.navigate", json!({"url": url}));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.events.push(event);
        }
        // What the page's script says and asks for in its first moments has come before this answer.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))");
        let complaint = |event: &Value| match event["method"].as_str()? {
            "Network.requestWillBeSent" if event["params"]["request"]["url"] != json!(url) => Some(event.to_string()),
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded" => Some(event.to_string()),
            _ => None,
        };
        self.events.iter().filter_map(complaint).collect()
    }

    fn evaluate(&mut self, script: &str) -> Value {
        let asked = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", asked);
        assert!(answer.get("exceptionDetails").is_none(), "{script}: {answer}");
        answer["result"]["value"].take()
    }

    /// The width of the page in a window of `width`, light or dark; a picture where one is asked for.
    fn look(&mut self, name: &str, width: usize, scheme: &str) -> u64 {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
        if let Some(dir) = std::env::var_os("DOCRE_SCREENSHOTS") {
            let shot = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
            let path = PathBuf::from(dir).join(format!("{name}-{width}-{scheme}.png"));
            std::fs::write(path, base64(shot["data"].as_str().unwrap())).unwrap();
        }
        self.evaluate("document.documentElement.scrollWidth").as_u64().unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let word = |four: &[u8]| four.iter().fold(0u32, |word, &d| word << 6 | u32::from(d)) << (6 * (4 - four.len()));
    digits.chunks(4).flat_map(|four| word(four).to_be_bytes()[1..four.len()].to_vec()).collect()
}

const NAME: &str = "</script><script>alert(1)</script>\"'\n<img src=http://example.com/x>";

/// The page of `docre eval` on names that try to leave their place.
fn eval_page(dir: &Path) -> PathBuf {
    let mention = |name: &str, at: usize| json!([{"name": name, "sent_id": 0, "pos": [at, at + 1], "type": "PER"}]);
    let label = |r: &str| json!({"h": 0, "t": 1, "r": r, "evidence": [0]});
    let gold = json!([{"title": NAME, "sents": [["a", "b"]], "vertexSet": [mention(NAME, 0), mention("b", 1)],
        "labels": [label(NAME), label("P17"), label("P27")]}]);
    let guess = |r: &str| json!({"title": NAME, "h_idx": 0, "t_idx": 1, "r": r});
    let pred = json!([guess(NAME), guess("P17"), guess("P6"), guess("P6")]);
    let write = |name: &str, value: Value| std::fs::write(dir.join(name), value.to_string()).unwrap();
    write("gold.json", gold);
    write("pred.json", pred);
    let mut docre = Command::new(env!("CARGO_BIN_EXE_docre"));
    docre.current_dir(dir).args(["eval", "--gold", "gold.json", "--pred", "pred.json", "--report", "report.html"]);
    let output = docre.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir.join("report.html")
}

/// The page of a run of a few updates.
fn run_page(dir: &Path) -> PathBuf {
    let config = format!("[data]\ntrain = [{}]\n[model]\nstart = \"encoder\"\n", json!(NAME));
    let mut log = Log::open(dir).unwrap();
    for update in 1..=40u32 {
        let loss = 2.0 / f64::from(update) + 0.1 * f64::from(update % 3);
        let rates = [1e-4, 5e-4, 4e-4].map(|rate| rate * f64::from(41 - update) / 40.0);
        log.line(&json!({"update": update, "loss": loss, "norm": 3.0 * loss, "rates": rates,
            "documents_per_second": 3.1, "memory_mib": 611.0}))
            .unwrap();
        if update % 10 == 0 {
            log.line(&json!({"update": update, "dev_f1": 50.0 + f64::from(update % 30)})).unwrap();
        }
    }
    log.page(&Config::parse(&config, &[]).unwrap(), 40, Some(End::Finished)).unwrap();
    dir.join("index.html")
}

#[test]
fn pages_open_without_an_error_or_a_request() {
    let Some(program) = std::env::var_os("DOCRE_CHROMIUM").filter(|path| !path.is_empty()) else {
        eprintln!("SKIPPED: pages in a browser (set DOCRE_CHROMIUM to a Chromium: scripts/chromium.sh prints one)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut browser = Browser::start(Path::new(&program));

    // What must be seen, is.
    let bad = dir.path().join("bad.html");
    std::fs::write(&bad, "<img src='http://example.com/x'><script>console.error(1); nothing()</script>").unwrap();
    let complaints = browser.open(&bad).join("\n");
    for part in ["requestWillBeSent", "exceptionThrown", "consoleAPICalled"] {
        assert!(complaints.contains(part), "{part}: {complaints}");
    }

    for (name, page) in [("eval", eval_page(dir.path())), ("train", run_page(dir.path()))] {
        assert_eq!(browser.open(&page), Vec::<String>::new(), "{name}");
        for (width, scheme) in [(1200, "light"), (1200, "dark"), (390, "light")] {
            let shown = browser.look(name, width, scheme);
            assert!(shown <= width as u64, "{name} in a window of {width}: {shown} wide");
        }
        let text = browser.evaluate("document.body.innerText");
        let parts = if name == "eval" {
            ["Ign F1 leaves out", "long tail", "66.67", "P27", "<script>alert(1)</script>", "given more than once"]
        } else {
            ["finished", "Development F1", "Gradient norm", "axial layers", "70.00", "of 40 (100 %)"]
        };
        for part in parts {
            assert!(text.as_str().unwrap().contains(part), "{name}, {part}: {text}");
        }
    }

    // The script runs, under the policy of the page: values under the pointer, sorted tables.
    let hover = "(() => { const svg = document.querySelector('svg'), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent('pointermove', { clientX: box.right - 1, clientY: box.top + 9 }));
        return svg.parentNode.querySelector('.legend').textContent })()";
    let legend = browser.evaluate(hover);
    assert!(legend.as_str().unwrap().contains("loss 0.15 at 40"), "{legend}");
    browser.open(&dir.path().join("report.html"));
    let sort = "(() => { const table = [...document.querySelectorAll('table')].at(-1);
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
        const before = names(), button = table.tHead.querySelector('button');
        button.click(); const up = names(); button.click(); return [before, up, names()] })()";
    let orders: [Vec<String>; 3] = serde_json::from_value(browser.evaluate(sort)).unwrap();
    let mut reversed = orders[1].clone();
    reversed.reverse();
    assert_eq!(orders[2], reversed);
    assert!(orders[0].len() == 4 && orders[1][1..] == ["P17", "P27", "P6"].map(String::from), "{orders:?}");
}
