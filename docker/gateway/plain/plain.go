// Package plain answers plain HTTP on the ports of TLS: a redirect to HTTPS for the gateway's own names, nothing that
// leads elsewhere for others (Caddy's own http_redirect sends the client to whatever Host it was made to say).
package plain

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(Redirect{})
}

// Redirect is the listener wrapper: `plain_redirect NAME...` before `tls`.
type Redirect struct {
	Names []string `json:"names,omitempty"`
}

func (Redirect) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.plain_redirect", New: func() caddy.Module { return new(Redirect) }}
}

func (r *Redirect) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	r.Names = d.RemainingArgs()
	if len(r.Names) == 0 {
		return d.ArgErr()
	}
	return nil
}

func (r *Redirect) WrapListener(listener net.Listener) net.Listener {
	return &listening{listener, r.Names}
}

type listening struct {
	net.Listener
	names []string
}

func (l *listening) Accept() (net.Conn, error) {
	link, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: link, reader: bufio.NewReader(link), names: l.names}, nil
}

// conn looks at its first bytes when they are read for the first time.
type conn struct {
	net.Conn
	reader *bufio.Reader
	names  []string
	looked bool
}

var answered = errors.New("plain HTTP on a port of TLS")

func (c *conn) Read(p []byte) (int, error) {
	if !c.looked {
		c.looked = true
		first, err := c.reader.Peek(5)
		if err != nil {
			return 0, err
		}
		if slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH"}, string(first)) {
			return 0, c.answer()
		}
	}
	return c.reader.Read(p)
}

func (c *conn) answer() error {
	buffered, _ := c.reader.Peek(c.reader.Buffered())
	limited := io.LimitReader(io.MultiReader(bytes.NewReader(buffered), c.Conn), 16<<10)
	r, err := http.ReadRequest(bufio.NewReader(limited))
	if err != nil {
		return answered
	}
	text := "HTTP/1.0 421 Misdirected Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	if c.own(r.Host) {
		target := *r.URL
		target.Scheme, target.Host, target.User, target.Opaque, target.Fragment = "https", r.Host, nil, "", ""
		if !strings.HasPrefix(target.Path, "/") {
			target.Path, target.RawPath = "/", ""
		}
		text = fmt.Sprintf("HTTP/1.0 308 Permanent Redirect\r\nLocation: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", target.String())
	}
	_, _ = io.WriteString(c.Conn, text)
	return answered
}

// own tells whether a Host header is one of the names, with any port.
func (c *conn) own(host string) bool {
	name := host
	if split, port, err := net.SplitHostPort(host); err == nil {
		if port == "" || strings.Trim(port, "0123456789") != "" {
			return false
		}
		name = split
	}
	return slices.ContainsFunc(c.names, func(known string) bool { return strings.EqualFold(known, name) })
}

var (
	_ caddy.ListenerWrapper = (*Redirect)(nil)
	_ caddyfile.Unmarshaler = (*Redirect)(nil)
)
