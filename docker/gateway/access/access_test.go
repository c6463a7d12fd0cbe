package access

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"trackbed/gateway/login"
)

var whole = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (mlflow|jupyter|s3|console|http|https|-) ` +
	`[0-9a-f.:]+ \d+ login=(right|wrong|none|-) user=[!-~]{1,80} in=\d+ out=\d+ \d+\.\d{3}s ` +
	`[!-~]{1,30} [!-~]{1,110} [!-~]{1,410}( \(\d+ more of this address left out\))?\n$`)

func request(method, target, host string) *http.Request {
	made := httptest.NewRequest(http.MethodGet, "https://gw/", nil)
	made.Method, made.Host, made.RemoteAddr = method, host, "192.0.2.7:999"
	made.URL.Path, made.URL.RawQuery, _ = strings.Cut(target, "?")
	made.Header.Set("Authorization", "Basic c2VjcmV0")
	made.Header.Set("Cookie", "secret=1")
	made.Header.Set("Referer", "https://gw/lab?token=secret")
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8000}
	return made.WithContext(context.WithValue(made.Context(), http.LocalAddrContextKey, local))
}

// encode sends a request through the module as Caddy's server does.
func encode(t *testing.T, e *Encoder, r *http.Request, status int, fields ...zap.Field) string {
	t.Helper()
	one := e.Clone()
	zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r}).AddTo(one)
	made, err := one.EncodeEntry(zapcore.Entry{Time: time.Unix(1700000000, 0)}, append([]zap.Field{
		zap.Int("bytes_read", 5), zap.String("user_id", ""), zap.Duration("duration", time.Second), zap.Int("size", 13),
		zap.Int("status", status)}, fields...))
	if err != nil {
		t.Fatal(err)
	}
	return made.String()
}

func encoder(t *testing.T) *Encoder {
	t.Helper()
	made := new(Encoder)
	if err := made.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return made
}

func TestALineSaysWhoFromWhereWhatAndHow(t *testing.T) {
	line := encode(t, encoder(t), request("POST", "/api/2.0/mlflow/runs/delete?x=secret", "203.0.113.7:8000"), 401,
		zap.String(login.LogLogin, "wrong"), zap.String(login.LogUser, "ann"))
	want := "2023-11-14T22:13:20.000Z mlflow 192.0.2.7 401 login=wrong user=ann in=5 out=13 1.000s " +
		"POST 203.0.113.7:8000 /api/2.0/mlflow/runs/delete\n"
	if line != want {
		t.Errorf("%q\n%q", line, want)
	}
}

func TestNobodyForgesALineOrLeavesASecretInOne(t *testing.T) {
	forged := "\n2026-11-25T21:10:00.123Z mlflow 192.0.2.8 401 login=wrong user=bob"
	for _, text := range []string{forged, "a b", "\x00\x1b[2J\r\n", "\u2028\u0085x", "\xff\xfe", strings.Repeat("ä", 5000),
		"user=x login=right", "", "%0a", `"\`} {
		for _, r := range []*http.Request{request("GET", "/"+text, "gw"), request(text, "/", "gw"),
			request("GET", "/", text), request("GET", text, "x:secret@gw"), request("GET", "/lab%3Ftoken=secret", "gw"),
			request("GET", "/lab?token=secret", "gw")} {
			if strings.Contains(r.URL.Path, "%3F") {
				r.URL.Path = "/lab?token=secret" // as net/url decodes it
			}
			line := encode(t, encoder(t), r, 401, zap.String(login.LogLogin, "wrong"), zap.String(login.LogUser, text))
			if !whole.MatchString(line) || strings.Count(line, "\n") != 1 || len(line) > 900 {
				t.Errorf("%q", line)
			}
			if strings.Contains(line, "secret") {
				t.Errorf("a secret: %q", line)
			}
		}
	}
}

func TestAFloodOfRefusalsIsCountedAndRightLoginsAreNot(t *testing.T) {
	e, count, last := encoder(t), 0, ""
	for range 5000 {
		if line := encode(t, e, request("GET", "/", "gw"), 429); line != "" {
			count++
		}
	}
	if count < 1000 || count > 1010 {
		t.Errorf("%d lines of 5000", count)
	}
	for range 3000 {
		if encode(t, e, request("GET", "/", "gw"), 404, zap.String(login.LogLogin, "right")) == "" ||
			encode(t, e, request("GET", "/", "gw"), 200) == "" {
			t.Fatal("who is let in is left out")
		}
	}
	time.Sleep(1100 * time.Millisecond)
	if last = encode(t, e, request("GET", "/", "gw"), 429); !strings.Contains(last, "more of this address left out)") ||
		!whole.MatchString(last) {
		t.Errorf("%q", last)
	}
}

func TestTheContainersOwnCheckIsNoLine(t *testing.T) {
	own := request("GET", "/", "localhost")
	own.RemoteAddr = "127.0.0.1:5"
	if line := encode(t, encoder(t), own, 401); line != "" {
		t.Error(line)
	}
}
