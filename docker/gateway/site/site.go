// Package site keeps the services behind the gateway apart. They share one host name, and to a browser cookies have no
// ports: each service gets its own cookies only, may set only these, and learns nothing of another one's login.
package site

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Site{})
	httpcaddyfile.RegisterHandlerDirective("site", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		made := new(Site)
		return made, made.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("site", httpcaddyfile.Before, "header")
	caddy.RegisterModule(Origin{})
	httpcaddyfile.RegisterHandlerDirective("own_origin", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(Origin), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("own_origin", httpcaddyfile.Before, "reverse_proxy")
}

// Site is the handler around all others of one service.
type Site struct {
	Service string `json:"service,omitempty"` // mlflow, jupyter, console, s3; another name has no rights at all
	Frames  string `json:"frames,omitempty"`  // the port of the service whose pages show MLflow's traces in a frame
}

func (Site) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.site", New: func() caddy.Module { return new(Site) }}
}

// UnmarshalCaddyfile reads `site * SERVICE [PORT]`.
func (s *Site) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&s.Service) {
		return d.ArgErr()
	}
	d.Args(&s.Frames)
	return nil
}

func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	s.request(r)
	edit := func(header http.Header) { s.answer(r, header) }
	return next.ServeHTTP(&answer{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, edit: edit}, r)
}

// claims are headers in which a proxy tells a service who or where the client is. Ours alone may.
var claims = regexp.MustCompile(`(?i)^(x[-_]trackbed[-_].*|x[-_]forwarded[-_].*|x[-_]real[-_].*|x[-_]scheme|` +
	`x[-_]original[-_].*|x[-_]rewrite[-_].*|x[-_]http[-_]method.*|forwarded|(x[-_])?remote[-_].*|` +
	`x[-_]auth.*|x[-_]mlflow[-_]auth.*|true[-_]client[-_]ip|proxy[-_].*)$`)

// hops are the only words in Connection that have a meaning here: others would take headers of ours away on the way.
var hops = []string{"close", "keep-alive", "upgrade"}

func (s *Site) request(r *http.Request) {
	for name := range r.Header {
		if claims.MatchString(name) {
			delete(r.Header, name)
		}
	}
	if words := r.Header.Values("Connection"); len(words) > 0 {
		kept := slices.DeleteFunc(strings.Split(strings.Join(words, ","), ","), func(word string) bool {
			return !slices.Contains(hops, strings.ToLower(strings.TrimSpace(word)))
		})
		r.Header.Del("Connection")
		if len(kept) > 0 {
			r.Header.Set("Connection", strings.Join(kept, ","))
		}
	}
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch scheme = strings.ToLower(scheme); {
	case s.Service == "jupyter" && (scheme == "token" || scheme == "bearer"): // its own; a login's password is not
	case s.Service == "s3" && (strings.HasPrefix(scheme, "aws4-") || scheme == "aws"):
	case s.Service == "mlflow" || s.Service == "console": // for the login, which takes it away
	default:
		r.Header.Del("Authorization")
	}
	kept := []string{}
	if s.Service != "jupyter" || own(r) { // a foreign page has to know the token itself
		for _, cookie := range r.Cookies() {
			if s.owns(r, cookie.Name) {
				kept = append(kept, cookie.Name+"="+quoted(cookie))
			}
		}
	}
	r.Header.Del("Cookie")
	if len(kept) > 0 {
		r.Header.Set("Cookie", strings.Join(kept, "; "))
	}
}

func quoted(cookie *http.Cookie) string {
	if cookie.Quoted {
		return `"` + cookie.Value + `"`
	}
	return cookie.Value
}

var odd = regexp.MustCompile(`[^A-Za-z0-9]`)

// owns tells whether a cookie is the service's. MLflow and the S3 API have none.
func (s *Site) owns(r *http.Request, name string) bool {
	switch s.Service {
	case "jupyter": // named after the host and the port, as jupyter_server does
		return name == "_xsrf" || name == "username-"+odd.ReplaceAllString(r.Host, "-")
	case "console":
		return name == "token" || name == "idp-refresh-token"
	}
	return false
}

func (s *Site) answer(r *http.Request, header http.Header) {
	cookies := (&http.Response{Header: header}).Cookies()
	header.Del("Set-Cookie")
	for _, cookie := range cookies {
		if !s.owns(r, cookie.Name) {
			continue
		}
		cookie.Secure = true
		cookie.HttpOnly = cookie.Name != "_xsrf" // JupyterLab's own page reads that one to send it back
		cookie.Domain = ""
		if cookie.SameSite != http.SameSiteStrictMode {
			cookie.SameSite = http.SameSiteLaxMode
		}
		header.Add("Set-Cookie", cookie.String())
	}
	if r.URL.Query().Has("token") {
		header.Set("Cache-Control", "no-store")
	}
	if policy := s.frames(r); !slices.ContainsFunc(header.Values("Content-Security-Policy"), func(text string) bool {
		return strings.Contains(strings.ToLower(text), "frame-ancestors")
	}) {
		header.Add("Content-Security-Policy", policy)
	}
}

// frames is who may show a page in a frame: nobody else, but for MLflow's traces in a notebook.
func (s *Site) frames(r *http.Request) string {
	switch {
	case s.Service == "mlflow" && s.Frames != "" && strings.HasPrefix(r.URL.Path, "/static-files/lib/notebook-trace-renderer/"):
		return "frame-ancestors 'self' https://" + net.JoinHostPort(hostname(r.Host), s.Frames)
	case s.Service == "mlflow" || s.Service == "jupyter":
		return "frame-ancestors 'self'"
	}
	return "frame-ancestors 'none'"
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// own tells whether the page that sent the request is of this very service, or no page sent it.
func own(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site": // another site, or another port of this host
		if !slices.Contains([]string{"GET", "HEAD"}, r.Method) {
			return false
		}
	}
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	found, err := url.Parse(origins[0])
	return err == nil && len(origins) == 1 && found.Scheme == "https" && found.User == nil && found.Path == "" &&
		full(found.Host) == full(r.Host)
}

func full(host string) string {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host += ":443"
	}
	return strings.ToLower(host)
}

// answer edits the headers at the moment they are sent.
type answer struct {
	*caddyhttp.ResponseWriterWrapper
	edit func(http.Header)
	done bool
}

func (a *answer) WriteHeader(status int) {
	if !a.done {
		a.edit(a.Header())
	}
	a.done = a.done || status >= 200 || status == http.StatusSwitchingProtocols
	a.ResponseWriterWrapper.WriteHeader(status)
}

func (a *answer) Write(data []byte) (int, error) {
	if !a.done {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriterWrapper.Write(data)
}

func (a *answer) ReadFrom(source io.Reader) (int64, error) {
	if !a.done {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriterWrapper.ReadFrom(source)
}

// Origin refuses what a page of another origin sends, whatever it asks for: `own_origin`, behind the login.
type Origin struct{}

func (Origin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.own_origin", New: func() caddy.Module { return new(Origin) }}
}

func (Origin) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method == http.MethodTrace || r.Method == http.MethodConnect {
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return nil
	}
	if own(r) {
		return next.ServeHTTP(w, r)
	}
	http.Error(w, "Forbidden: a page of another origin", http.StatusForbidden)
	return nil
}

var (
	_ caddyhttp.MiddlewareHandler = (*Site)(nil)
	_ caddyhttp.MiddlewareHandler = (*Origin)(nil)
	_ caddyfile.Unmarshaler       = (*Site)(nil)
)
