// Package login asks for a name and a password (HTTP Basic). Users come and go without a reload of the
// configuration, and wrong passwords are answered slower and slower without keeping right ones out.
package login

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// Fields of the access log: how the login ended (right, wrong, none) and the name that was given.
const (
	LogLogin = "login"
	LogUser  = "login_user"
)

// Header tells the service behind who it is: the name, and a proof that only the gateway's key makes.
const Header = "X-Trackbed-Login"

func init() {
	caddy.RegisterModule(Login{})
	httpcaddyfile.RegisterHandlerDirective("login", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		made := new(Login)
		return made, made.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("login", httpcaddyfile.Before, "basic_auth")
}

// one count of wrong logins for all sites
var wrong = &Limit{Burst: 10, Refill: 2 * time.Second}

// Login is the handler. Users names the file (see Users), Key the one whose key proves the name to the service behind,
// Token the one with what that service asks for; without them it is not told.
type Login struct {
	Users string `json:"users,omitempty"`
	Key   string `json:"key,omitempty"`
	Token string `json:"token,omitempty"`
	users *Users
	key   *Secret
	token *Secret
}

func (Login) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.login", New: func() caddy.Module { return new(Login) }}
}

func (l *Login) Provision(caddy.Context) error {
	l.users = &Users{path: l.Users}
	if l.Key != "" {
		l.key = &Secret{path: l.Key}
	}
	if l.Token != "" {
		l.token = &Secret{path: l.Token}
	}
	return nil
}

// UnmarshalCaddyfile reads `login * USERS [KEY [TOKEN]]` (without the star a path would be taken for a matcher).
func (l *Login) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&l.Users) {
		return d.ArgErr()
	}
	if d.NextArg() {
		l.Key = d.Val()
	}
	if d.NextArg() {
		l.Token = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

func (l *Login) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	name, password, given := r.BasicAuth()
	if given && l.users.Check(name, password) {
		r.Header.Del("Authorization") // the parts behind have no use for it
		note(r, "right", name)
		if l.key != nil {
			key := l.key.Read()
			if len(key) == 0 { // without a proof the service would believe whatever the client says of itself
				refuse(w, r, http.StatusServiceUnavailable)
				return nil
			}
			r.Header.Set(Header, name+" "+Proof(key, name))
		}
		if l.token != nil {
			token := l.token.Read()
			if len(token) == 0 { // the service would ask this client for it
				refuse(w, r, http.StatusServiceUnavailable)
				return nil
			}
			r.Header.Set("Authorization", "Bearer "+string(token))
		}
		return next.ServeHTTP(w, r)
	}
	if given {
		note(r, "wrong", name)
	} else {
		note(r, "none", "")
	}
	status := http.StatusUnauthorized
	if given {
		address, _, _ := net.SplitHostPort(r.RemoteAddr)
		if wrong.Wrong(address) {
			status = http.StatusTooManyRequests
			w.Header().Set("Retry-After", strconv.Itoa(int(wrong.Refill.Seconds())))
		}
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="Trackbed", charset="UTF-8"`)
	refuse(w, r, status)
	return nil
}

// Proof is what Header says after the name. docker/mlflow/trackbed_mlflow/edge/identity.py computes the same.
func Proof(key []byte, name string) string {
	sum := hmac.New(sha256.New, key)
	sum.Write([]byte("trackbed login\n" + name))
	return hex.EncodeToString(sum.Sum(nil))
}

// note leaves the login for the access log.
func note(r *http.Request, result, name string) {
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.String(LogLogin, result))
		extra.Set(zap.String(LogUser, name))
	}
}

// refuse answers, and ends the connection of a client that goes on to send a body, which could take hours. It has two
// seconds in which to see the answer.
func refuse(w http.ResponseWriter, r *http.Request, status int) {
	text := http.StatusText(status) + "\n"
	body := r.ProtoMajor == 1 && r.ContentLength != 0
	if body {
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
	if !body {
		return
	}
	control := http.NewResponseController(w)
	_ = control.Flush()
	if link, _, err := control.Hijack(); err == nil {
		_ = link.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.CopyN(io.Discard, link, 1<<20)
		_ = link.Close()
	}
}

var (
	_ caddyhttp.MiddlewareHandler = (*Login)(nil)
	_ caddy.Provisioner           = (*Login)(nil)
	_ caddyfile.Unmarshaler       = (*Login)(nil)
)
