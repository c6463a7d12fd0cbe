package plain

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func ask(t *testing.T, text string) (string, error) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := (&Redirect{Names: []string{"gw.example", "localhost"}}).WrapListener(inner)
	defer listener.Close()
	read := make(chan error, 1)
	go func() {
		link, err := listener.Accept()
		if err == nil {
			_, err = link.Read(make([]byte, 10))
			link.Close()
		}
		read <- err
	}()
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(client, text)
	answer, _ := io.ReadAll(client)
	return string(answer), <-read
}

func TestOwnNamesAreSentToHTTPSAndForeignOnesNowhere(t *testing.T) {
	for request, want := range map[string]string{
		"GET /x?y=z HTTP/1.1\r\nHost: gw.example:8000\r\n\r\n":            "308 https://gw.example:8000/x?y=z",
		"DELETE /x HTTP/1.1\r\nHost: GW.example\r\n\r\n":                  "308 https://GW.example/x",
		"GET //evil.example HTTP/1.1\r\nHost: gw.example\r\n\r\n":         "308 https://gw.example//evil.example",
		"OPTIONS * HTTP/1.1\r\nHost: gw.example\r\n\r\n":                  "308 https://gw.example/",
		"POST http://evil.example/x HTTP/1.1\r\nHost: gw.example\r\n\r\n": "421 ",
		"GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n":                   "421 ",
		"GET /x HTTP/1.1\r\nHost: gw.example.evil.example\r\n\r\n":        "421 ",
		"GET /x HTTP/1.1\r\nHost: gw.example:8000@evil.example\r\n\r\n":   "421 ",
		"GET /x HTTP/1.1\r\nHost: gw.example:8000.evil.example\r\n\r\n":   "421 ",
		"GET /x HTTP/1.1\r\n\r\n":                                         "421 ",
		"GET / " + strings.Repeat("x", 20000):                             "",
	} {
		answer, err := ask(t, request)
		got := ""
		if answer != "" {
			_, location, _ := strings.Cut(answer, "Location: ")
			location, _, _ = strings.Cut(location, "\r\n")
			got = answer[9:12] + " " + location
		}
		if got != want || err == nil {
			t.Errorf("%q: %q", request[:min(60, len(request))], answer)
		}
	}
}

func TestTLSPasses(t *testing.T) {
	if _, err := ask(t, "\x16\x03\x01\x00\x05hello"); err != nil {
		t.Error(err)
	}
}
