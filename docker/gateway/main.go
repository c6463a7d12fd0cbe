// The gateway: Caddy with the modules that it needs and no others, and Trackbed's login.
//
//	gateway run              serve (what the container starts)
//	gateway health           exit 0 when the listener answers
//	gateway root             print the root certificate of the gateway's own CA
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls/standardstek"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	_ "trackbed/gateway/access"
	"trackbed/gateway/authority"
	_ "trackbed/gateway/login"
	_ "trackbed/gateway/plain"
	_ "trackbed/gateway/site"
)

const (
	caddyfile = "/etc/gateway/Caddyfile"
	data      = "/data"
)

func main() {
	command := "run"
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	switch command {
	case "run":
		if err := authority.Prepare(data, os.Getenv("GATEWAY_NAME"), time.Now()); err != nil {
			finish(fmt.Errorf("its own CA: %w", err))
		}
		if err := check(caddyfile); err != nil { // `caddy run` ends without a word about it
			finish(fmt.Errorf("its configuration: %w", err))
		}
		os.Args = []string{"caddy", "run", "--config", caddyfile, "--adapter", "caddyfile"}
	case "validate":
		os.Args = []string{"caddy", "validate", "--config", caddyfile, "--adapter", "caddyfile"}
	case "health":
		if err := health("127.0.0.1:8000"); err != nil {
			finish(err)
		}
		finish(known("http://mlflow:8000/health", "/run/secrets/access-token"))
	case "root":
		finish(root(authority.Root(data)))
	default:
		finish(fmt.Errorf("unknown command %q", command))
	}
	caddycmd.Main()
}

// check makes everything that the file describes, starts none of it, and tells what is wrong.
func check(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	made, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": path})
	if err != nil {
		return err
	}
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(made, config); err != nil {
		return err
	}
	return caddy.Validate(config)
}

func finish(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
