pub fn ptx(name: &str) -> Result<std::path::PathBuf, String> { Ok(format!("/tmp/samples-ptx/{name}.ptx").into()) }
