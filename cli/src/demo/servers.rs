//! The programs that run in the pods: nginx, Python servers, iperf3, and how they are asked.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use world::{Place, Process, Program, WorldError};

use crate::demo::DemoError;

/// Port of the HTTP servers in the pods.
pub const HTTP_PORT: u16 = 8080;
/// Port of the servers that speak first and then echo.
pub const ECHO_PORT: u16 = 9000;
/// Port of iperf3.
pub const IPERF_PORT: u16 = 5201;
/// A server in a pod listens within this; Python takes about 0.2 s, on a machine that does nothing
/// else.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);

const PYTHON: &str = "/usr/bin/python3";
const WEB: &str = include_str!("../../../demo/programs/web.py");
const ECHO: &str = include_str!("../../../demo/programs/echo.py");
const LIVE: &str = include_str!("../../../demo/programs/live.py");

/// The Python programs of `demo/programs/`, written where pods can run them.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Writes them into a directory.
    pub fn write_to(directory: &Path) -> Result<Self, DemoError> {
        let programs = Programs(directory.join("programs"));
        let write = || {
            fs::create_dir_all(&programs.0)?;
            fs::write(programs.0.join("web.py"), WEB)?;
            fs::write(programs.0.join("echo.py"), ECHO)?;
            fs::write(programs.0.join("live.py"), LIVE)
        };
        write().map_err(|source| DemoError::Write {
            path: programs.0.clone(),
            source,
        })?;
        Ok(programs)
    }

    /// A client that holds a connection to an echo server.
    pub fn live(&self, host: IpAddr, port: u16) -> Program {
        self.python("live.py")
            .args([host.to_string(), port.to_string()])
    }

    /// Starts the HTTP server in Python.
    pub fn start_web(&self, place: &Place) -> Result<Process, WorldError> {
        self.listening(place, "web.py", HTTP_PORT)
    }

    /// Starts the server that speaks first.
    pub fn start_echo(&self, place: &Place) -> Result<Process, WorldError> {
        self.listening(place, "echo.py", ECHO_PORT)
    }

    /// Starts nginx with the same answers as the Python server, but that it gives back the header
    /// `x-marker` instead of the body.
    pub fn start_nginx(&self, place: &Place) -> Result<Process, DemoError> {
        let directory = self.0.join(format!("nginx-{}", place.name()));
        let file = directory.join("nginx.conf");
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&file, nginx_configuration(&directory, place.name())))
            .map_err(|source| DemoError::Write {
                path: file.clone(),
                source,
            })?;
        let program = Program::new("nginx")
            .args(["-e", "stderr", "-c"])
            .arg(&file);
        let process = place.start("nginx", &program)?;
        let port = format!(":{HTTP_PORT}");
        process.wait_until("nginx to listen", LISTENS_WITHIN, || {
            let listening = place.text(&Program::line("ss -Hltn")).ok()?;
            listening.contains(&port).then_some(())
        })?;
        Ok(process)
    }

    /// Starts iperf3's server, in the order of `iperf3 -s`: many clients one after the other.
    pub fn start_iperf(&self, place: &Place) -> Result<Process, WorldError> {
        let program =
            Program::line("iperf3 --server --forceflush --port").arg(IPERF_PORT.to_string());
        let process = place.start("iperf3", &program)?;
        process.wait_for_line(&["Server listening"], LISTENS_WITHIN)?;
        Ok(process)
    }

    fn listening(&self, place: &Place, file: &str, port: u16) -> Result<Process, WorldError> {
        let program = self
            .python(file)
            .args([port.to_string(), place.name().to_owned()]);
        let process = place.start(file, &program)?;
        process.wait_for_line(&["listening"], LISTENS_WITHIN)?;
        Ok(process)
    }

    fn python(&self, file: &str) -> Program {
        Program::new(PYTHON).arg("-u").arg(self.0.join(file))
    }
}

fn nginx_configuration(directory: &Path, name: &str) -> String {
    let directory = directory.display();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {HTTP_PORT} backlog=512;
        listen [::]:{HTTP_PORT} backlog=512;
        default_type application/json;
        location / {{
            set $who '"server":"{name}","client":"$remote_addr"';
            return 200 '{{$who,"path":"$request_uri","marker":"$http_x_marker"}}';
        }}
    }}
}}
"#
    )
}
