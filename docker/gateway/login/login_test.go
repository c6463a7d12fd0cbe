package login

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func line(name, password string) string {
	sum := sha256.Sum256([]byte("salt" + password))
	return fmt.Sprintf("%s:%s:%s\n", name, hex.EncodeToString([]byte("salt")), hex.EncodeToString(sum[:]))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUsersChangeWithoutARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	users := &Users{path: path}
	again := func() { users.looked = time.Time{} }
	if users.Check("ann", "one") {
		t.Error("nobody may come in before there is a file")
	}
	write(t, path, line("ann", "one")+"end\n")
	again()
	for _, wrong := range [][2]string{{"ann", "two"}, {"ann", ""}, {"", "one"}, {"bob", "one"}, {"ANN", "one"}, {"", ""}} {
		if users.Check(wrong[0], wrong[1]) {
			t.Errorf("%q came in", wrong)
		}
	}
	if !users.Check("ann", "one") {
		t.Error("ann does not come in")
	}
	for _, damaged := range []string{line("bob", "two"), line("bob", "two") + "en", "", "bob:x:y\nend\n", "end"} {
		write(t, path, damaged)
		again()
		if want := damaged != "end"; users.Check("ann", "one") != want || users.Check("bob", "two") {
			t.Errorf("after %q: ann should be %v, bob out", damaged, want)
		}
	}
}

func TestLimit(t *testing.T) {
	now := time.Unix(1000, 0)
	limit := &Limit{Burst: 3, Refill: time.Second, now: func() time.Time { return now }}
	for i := range 3 {
		if limit.Wrong("192.0.2.1") {
			t.Errorf("limited after %d", i)
		}
	}
	if !limit.Wrong("192.0.2.1") || !limit.Wrong("::ffff:192.0.2.1") {
		t.Error("the fourth is not limited")
	}
	if limit.Wrong("192.0.2.2") {
		t.Error("another address is limited")
	}
	now = now.Add(time.Second)
	if limit.Wrong("192.0.2.1") {
		t.Error("limited after the pause")
	}
	for range 3 {
		limit.Wrong("2001:db8::1")
	}
	if !limit.Wrong("2001:db8::ffff") || limit.Wrong("2001:db8:0:1::1") {
		t.Error("an IPv6 customer is a /64")
	}
	now = now.Add(time.Hour)
	limit.Wrong("192.0.2.9")
	if len(limit.debts) != 1 {
		t.Errorf("%d addresses are remembered", len(limit.debts))
	}
	for i := range most + 10 {
		limit.Wrong(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	if len(limit.debts) > most+1 {
		t.Errorf("%d addresses are remembered", len(limit.debts))
	}
}

func TestLogin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, line("ann", "one")+"end\n")
	login := &Login{Users: path}
	if err := login.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	ask := func(change func(*http.Request)) (int, *http.Request) {
		var seen *http.Request
		answer := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodPost, "https://gw/", strings.NewReader("body"))
		request.RemoteAddr = "192.0.2.77:1"
		change(request)
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { seen = r; return nil })
		if err := login.ServeHTTP(answer, request, next); err != nil {
			t.Fatal(err)
		}
		return answer.Code, seen
	}
	if status, seen := ask(func(*http.Request) {}); status != 401 || seen != nil {
		t.Errorf("without a login: %d", status)
	}
	good := func(r *http.Request) { r.SetBasicAuth("ann", "one") }
	if _, seen := ask(good); seen == nil || seen.Header.Get("Authorization") != "" {
		t.Error("the login does not pass, or its password does")
	}
	limited := 0
	for range 50 {
		if status, seen := ask(func(r *http.Request) { r.SetBasicAuth("ann", "wrong") }); status == 429 {
			limited++
		} else if status != 401 || seen != nil {
			t.Errorf("a wrong password: %d", status)
		}
	}
	if limited < 30 {
		t.Errorf("%d of 50 were limited", limited)
	}
	if _, seen := ask(good); seen == nil {
		t.Error("a right password is kept out by wrong ones")
	}
	for _, header := range []string{"Bearer ann:one", "Basic", "Basic !!!", "basic YW5uOg==", "Digest x"} {
		if status, seen := ask(func(r *http.Request) { r.Header.Set("Authorization", header) }); seen != nil || status < 401 {
			t.Errorf("%q: %d", header, status)
		}
	}
}

func TestTheServiceIsToldWhoItIs(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "users"), line("ann", "one")+"end\n")
	login := &Login{Users: filepath.Join(folder, "users"), Key: filepath.Join(folder, "key"),
		Token: filepath.Join(folder, "token")}
	if err := login.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	ask := func() (int, string) {
		told := "nobody"
		answer := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodGet, "https://gw/", nil)
		request.SetBasicAuth("ann", "one")
		request.Header.Set(Header, "bob 00")
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			told = strings.Join(append(r.Header.Values(Header), r.Header.Values("Authorization")...), "|")
			return nil
		})
		if err := login.ServeHTTP(answer, request, next); err != nil {
			t.Fatal(err)
		}
		return answer.Code, told
	}
	if status, told := ask(); status != 503 || told != "nobody" {
		t.Errorf("without a key: %d, %s", status, told)
	}
	write(t, filepath.Join(folder, "key"), "secret\n")
	login.key.looked = time.Time{}
	// the same value as in tests/unit/test_identity.py
	want := "ann 6fe3691333ba74d252b75559b251f45a930d2aca471c7d3ed8faa6def37a49b4"
	if status, told := ask(); status != 503 || told != "nobody" {
		t.Errorf("without a token: %d, %s", status, told)
	}
	for _, token := range []string{"one", "another"} { // it changes while the gateway runs
		write(t, filepath.Join(folder, "token"), token+"\n")
		login.token.looked = time.Time{}
		if status, told := ask(); status != 200 || told != want+"|Bearer "+token {
			t.Errorf("%d, %s", status, told)
		}
	}
}
