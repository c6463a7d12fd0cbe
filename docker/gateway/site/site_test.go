package site

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// pass sends a request through a site; gives what the service behind sees and what the client gets.
func pass(t *testing.T, s Site, r *http.Request, service func(http.Header)) (*http.Request, http.Header) {
	t.Helper()
	answer := httptest.NewRecorder()
	var seen *http.Request
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		seen = r
		service(w.Header())
		_, err := w.Write([]byte("x"))
		return err
	})
	if err := s.ServeHTTP(answer, r, next); err != nil {
		t.Fatal(err)
	}
	return seen, answer.Result().Header
}

func request(method string, headers ...string) *http.Request {
	made := httptest.NewRequest(method, "https://gw:8888/lab", nil)
	for i := 0; i < len(headers); i += 2 {
		made.Header.Add(headers[i], headers[i+1])
	}
	return made
}

func nothing(http.Header) {}

func TestCookiesOfOneServiceDoNotReachTheOther(t *testing.T) {
	jar := `username-gw-8888="2|1:0|a=="; username-gw-9999=x; _xsrf=y; token=z; session=s; other=o`
	for service, want := range map[string]string{"mlflow": "", "s3": "", "x": "", "console": "token=z",
		"jupyter": `username-gw-8888="2|1:0|a=="; _xsrf=y`} {
		seen, _ := pass(t, Site{Service: service}, request("GET", "Cookie", jar), nothing)
		if got := seen.Header.Get("Cookie"); got != want {
			t.Errorf("%s gets %q", service, got)
		}
	}
	for _, foreign := range []string{"https://gw:8000", "http://gw:8888", "https://gw", "null", "https://gw:8888.evil.example",
		"https://x@gw:8888", "http://localhost:5173"} {
		seen, _ := pass(t, Site{Service: "jupyter"}, request("POST", "Cookie", jar, "Origin", foreign), nothing)
		if seen.Header.Get("Cookie") != "" {
			t.Errorf("a page of %s uses JupyterLab's cookie", foreign)
		}
	}
}

func TestCookiesAreSecureAndTheServicesOwn(t *testing.T) {
	_, header := pass(t, Site{Service: "jupyter"}, request("GET"), func(header http.Header) {
		header.Add("Set-Cookie", `username-gw-8888="2|1:0|a=="; expires=Sun, 27 Dec 2099 10:00:00 GMT; Path=/`)
		header.Add("Set-Cookie", "_xsrf=2|b; HttpOnly; Path=/; Domain=example.org; SameSite=None")
		header.Add("Set-Cookie", "token=tossed; Path=/")
	})
	got := header.Values("Set-Cookie")
	want := []string{
		`username-gw-8888="2|1:0|a=="; Path=/; Expires=Sun, 27 Dec 2099 10:00:00 GMT; HttpOnly; Secure; SameSite=Lax`,
		"_xsrf=2|b; Path=/; Secure; SameSite=Lax"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	_, header = pass(t, Site{Service: "mlflow"}, request("GET"), func(header http.Header) { header.Add("Set-Cookie", "a=b") })
	if len(header.Values("Set-Cookie")) != 0 {
		t.Error("MLflow sets a cookie for JupyterLab")
	}
}

func TestNobodyClaimsToBeTheGateway(t *testing.T) {
	headers := []string{"X-Trackbed-Login", "x_trackbed_login", "X-Trackbed-Anything", "X-Forwarded-For", "X-Forwarded-User",
		"Forwarded", "X-Real-Ip", "Remote-User", "X-Remote-User", "X-Http-Method-Override", "Proxy-Authorization", "X-Scheme"}
	r := request("GET", "Connection", "close, X-Trackbed-Login", "Connection", "Cookie, Upgrade")
	for _, name := range headers {
		r.Header[name] = []string{"ann"}
	}
	seen, _ := pass(t, Site{Service: "mlflow"}, r, nothing)
	if got := seen.Header.Values("Connection"); len(got) != 1 || strings.ReplaceAll(got[0], " ", "") != "close,Upgrade" {
		t.Errorf("a client takes headers away: %q", got)
	}
	for _, name := range headers {
		if _, there := seen.Header[name]; there {
			t.Errorf("%s passes", name)
		}
	}
}

func TestALoginsPasswordReachesNoOtherService(t *testing.T) {
	for service, passing := range map[string]string{"jupyter": "token t|Bearer t", "s3": "AWS4-HMAC-SHA256 x|AWS x", "x": ""} {
		for _, value := range []string{"Basic YW5uOng=", "basic x", "token t", "Bearer t", "AWS4-HMAC-SHA256 x", "AWS x", "Digest x"} {
			seen, _ := pass(t, Site{Service: service}, request("GET", "Authorization", value), nothing)
			if got := seen.Header.Get("Authorization") != ""; got != slices.Contains(strings.Split(passing, "|"), value) {
				t.Errorf("%s, %q: %v", service, value, got)
			}
		}
	}
}

func TestOnlyOwnPagesAreServed(t *testing.T) {
	for _, c := range []struct {
		method, origin, fetch string
		status                int
	}{
		{"POST", "", "", 200}, {"POST", "https://gw:8888", "same-origin", 200}, {"GET", "https://GW:8888", "", 200},
		{"POST", "https://gw:8000", "", 403}, {"POST", "http://localhost:5173", "", 403}, {"OPTIONS", "http://127.0.0.1:3000", "", 403},
		{"POST", "null", "", 403}, {"GET", "https://evil.example", "", 403}, {"POST", "", "cross-site", 403},
		{"DELETE", "", "same-site", 403}, {"GET", "", "cross-site", 200}, {"GET", "", "same-site", 200}, {"POST", "", "none", 200},
		{"POST", "http://gw:8888", "", 403}, {"POST", "https://gw", "", 403}, {"POST", "https://gw:8888/", "", 403}, {"POST", "%", "", 403},
		{"TRACE", "", "", 405}, {"CONNECT", "", "", 405},
	} {
		r := request(c.method)
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if c.fetch != "" {
			r.Header.Set("Sec-Fetch-Site", c.fetch)
		}
		answer := httptest.NewRecorder()
		ok := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
		if err := (Origin{}).ServeHTTP(answer, r, ok); err != nil || answer.Code != c.status {
			t.Errorf("%+v: %d", c, answer.Code)
		}
	}
	two := request("POST", "Origin", "https://gw:8888", "Origin", "https://evil.example")
	if own(two) {
		t.Error("the first of two origins is believed")
	}
}

func TestFramesAndCaches(t *testing.T) {
	traces := httptest.NewRequest("GET", "https://gw:8000/static-files/lib/notebook-trace-renderer/index.html", nil)
	other := httptest.NewRequest("GET", "https://gw:8000/", nil)
	token := httptest.NewRequest("GET", "https://gw:8888/lab?token=t", nil)
	_, header := pass(t, Site{Service: "mlflow", Frames: "8888"}, traces, nothing)
	if got := header.Get("Content-Security-Policy"); got != "frame-ancestors 'self' https://gw:8888" {
		t.Error(got)
	}
	_, header = pass(t, Site{Service: "mlflow", Frames: "8888"}, other, nothing)
	if got := header.Get("Content-Security-Policy"); got != "frame-ancestors 'self'" || header.Get("Cache-Control") != "" {
		t.Error(got)
	}
	_, header = pass(t, Site{Service: "jupyter"}, token, func(header http.Header) {
		header.Set("Content-Security-Policy", "frame-ancestors 'self'; report-uri /x")
	})
	if got := header.Values("Content-Security-Policy"); len(got) != 1 || header.Get("Cache-Control") != "no-store" {
		t.Error(got, header)
	}
}
