package access

import (
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"

	"trackbed/gateway/login"
)

func init() {
	caddy.RegisterModule(Encoder{})
}

// Encoder makes Caddy's access log entries to our lines: `format access_line` in the Caddyfile.
type Encoder struct {
	zapcore.Encoder `json:"-"`
	request         *http.Request
	flood           *flood
}

func (Encoder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.access_line", New: func() caddy.Module { return new(Encoder) }}
}

func (e *Encoder) Provision(caddy.Context) error {
	e.Encoder = zapcore.NewJSONEncoder(zapcore.EncoderConfig{})
	e.flood = &flood{limit: &login.Limit{Burst: 1000, Refill: time.Second}, left: map[string]int{}}
	return nil
}

func (e *Encoder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Clone is called once for each request, before its AddObject.
func (e *Encoder) Clone() zapcore.Encoder {
	return &Encoder{Encoder: e.Encoder.Clone(), request: e.request, flood: e.flood}
}

// AddObject keeps the request instead of writing its headers out.
func (e *Encoder) AddObject(key string, object zapcore.ObjectMarshaler) error {
	if found, ok := object.(caddyhttp.LoggableHTTPRequest); ok {
		e.request = found.Request
		return nil
	}
	return e.Encoder.AddObject(key, object)
}

var lines = buffer.NewPool()

// EncodeEntry gives the line; an empty one for what is not logged.
func (e *Encoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	made := lines.Get()
	found := Entry{Time: entry.Time, Request: e.request}
	for _, field := range fields {
		switch field.Key {
		case "request":
			if request, ok := field.Interface.(caddyhttp.LoggableHTTPRequest); ok {
				found.Request = request.Request
			}
		case "bytes_read":
			found.In = int(field.Integer)
		case "size":
			found.Out = int(field.Integer)
		case "status":
			found.Status = int(field.Integer)
		case "duration":
			found.Duration = time.Duration(field.Integer)
		case login.LogLogin:
			found.Login = field.String
		case login.LogUser:
			found.User = field.String
		}
	}
	if found.Request == nil || health(found) {
		return made, nil
	}
	written, left := e.flood.pass(found)
	if !written {
		return made, nil
	}
	found.LeftOut = left
	made.AppendString(found.Line())
	return made, nil
}

// health is the container's own check, each 15 s.
func health(e Entry) bool {
	return e.Status == http.StatusUnauthorized && e.Request.Host == "localhost" && Address(e.Request) == "127.0.0.1"
}

// flood keeps an address that is refused all the time from filling the log, which would push everybody else's lines
// out: 1000 lines at once, then one a second that says how many were left out.
type flood struct {
	limit *login.Limit
	mutex sync.Mutex
	left  map[string]int
}

func (f *flood) pass(e Entry) (bool, int) {
	if e.Status < 400 || e.Login == "right" {
		return true, 0
	}
	address := Address(e.Request)
	wrong := f.limit.Wrong(address)
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if wrong {
		if len(f.left) > 65536 {
			clear(f.left)
		}
		f.left[address]++
		return false, 0
	}
	left := f.left[address]
	delete(f.left, address)
	return true, left
}

var (
	_ zapcore.Encoder       = (*Encoder)(nil)
	_ caddy.Provisioner     = (*Encoder)(nil)
	_ caddyfile.Unmarshaler = (*Encoder)(nil)
)
