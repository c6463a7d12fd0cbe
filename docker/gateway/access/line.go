// Package access writes the access log: one plain line for each request, the same grammar for every service, so that
// fail2ban and grep know it. What a client chose stands last and escaped: nobody writes a line of somebody else.
//
//	2026-11-25T21:10:00.123Z mlflow 192.0.2.7 401 login=wrong user=ann in=0 out=13 0.002s GET 203.0.113.7:8000 /version
//
// No header, no body and nothing after the path's `?` is in it: tokens, cookies, passwords and signatures stand there.
package access

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Services by the port that the gateway listens on.
var services = map[string]string{"8000": "mlflow", "8888": "jupyter", "9000": "s3", "9001": "console",
	"8080": "http", "8443": "https"}

// Entry is what a line says of a request.
type Entry struct {
	Time     time.Time
	Request  *http.Request
	Status   int
	In, Out  int
	Duration time.Duration
	Login    string // right, wrong, none, or "" where the gateway asks for none
	User     string // the login's name; of a wrong login the name that was tried
	LeftOut  int    // lines of this address since its last one
}

// Line is the entry's text with its newline.
func (e Entry) Line() string {
	login, user := e.Login, clean(e.User, 64)
	if login == "" {
		login = "-"
	}
	if user == "" {
		user = "-"
	}
	line := fmt.Sprintf("%s %s %s %d login=%s user=%s in=%d out=%d %.3fs %s %s %s",
		e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), Service(e.Request), Address(e.Request), e.Status, login, user,
		e.In, e.Out, e.Duration.Seconds(), orDash(clean(e.Request.Method, 24)), orDash(host(e.Request)),
		orDash(path(e.Request)))
	if e.LeftOut > 0 {
		line += fmt.Sprintf(" (%d more of this address left out)", e.LeftOut)
	}
	return line + "\n"
}

// Service is the name of the service whose port the request came to.
func Service(r *http.Request) string {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if _, port, err := net.SplitHostPort(local.String()); err == nil && services[port] != "" {
			return services[port]
		}
	}
	return "-"
}

// Address is the client's, as the kernel says; no header is believed.
func Address(r *http.Request) string {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "-"
	}
	address, _, _ = strings.Cut(address, "%")
	return clean(address, 45)
}

// host loses what stands before an @, where some clients put a password.
func host(r *http.Request) string {
	return clean(r.Host[strings.LastIndexByte(r.Host, '@')+1:], 100)
}

// path ends at the first `?`, also at one that hides behind its escape.
func path(r *http.Request) string {
	if r.URL == nil {
		return ""
	}
	decoded, _, _ := strings.Cut(r.URL.Path, "?")
	return clean(decoded, 400)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// clean writes everything but plain visible ASCII as %XX, and cuts what is longer than most.
func clean(text string, most int) string {
	var made strings.Builder
	for at := 0; at < len(text); {
		char, size := utf8.DecodeRuneInString(text[at:])
		part := text[at : at+size]
		at += size
		if char <= ' ' || char >= 0x7f || char == '%' || char == '"' || char == '\\' {
			part = ""
			for _, b := range []byte(text[at-size : at]) {
				part += fmt.Sprintf("%%%02X", b)
			}
		}
		if made.Len()+len(part) > most {
			made.WriteString("...")
			break
		}
		made.WriteString(part)
	}
	return made.String()
}
