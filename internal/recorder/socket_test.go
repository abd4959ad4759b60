// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asks is what TestMain does instead of tests, as another user.
const asks = "AFTERFIN_TEST_ASKS"

func TestMain(m *testing.M) {
	if path := os.Getenv(asks); path != "" {
		var into any
		err := Ask(context.Background(), path, AskLeaks, nil, &into)
		fmt.Println(errors.Is(err, ErrDenied), errors.Is(err, ErrNone), err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// folder is one that any user may enter: a test that ran is allowed to say no.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "recorder")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// echo answers with what it was asked.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_ = json.NewEncoder(w).Encode([]string{r.Method, r.URL.Path, r.FormValue("since")})
})

func listen(t *testing.T, path string, h http.Handler) (end func()) {
	t.Helper()
	end, err := Listen(path, h, func(err error) { t.Errorf("stopped: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return end
}

func ask(t *testing.T, path string) ([]string, error) {
	t.Helper()
	var into []string
	err := Ask(t.Context(), path, AskTimeWait, url.Values{"since": {"1m0s"}}, &into)
	return into, err
}

func answers(t *testing.T, path string) {
	t.Helper()
	if got, err := ask(t, path); err != nil || strings.Join(got, " ") != "GET /v1/timewait 1m0s" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestListenAndAsk(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(folder(t), "afterfin", "recorder.sock")
	end := listen(t, path, echo)
	for name, want := range map[string]fs.FileMode{path: 0o600 | fs.ModeSocket, filepath.Dir(path): 0o700 | fs.ModeDir} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != want {
			t.Errorf("%s is %v, want %v", name, st.Mode(), want)
		}
	}
	answers(t, path)
	answers(t, path)
	end()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := ask(t, path); !errors.Is(err, ErrNone) {
		t.Errorf("after the end: %v", err)
	}
	listen(t, path, echo) // the folder is there
	answers(t, path)
}

// An end that comes at once leaves no socket either.
func TestEndAtOnce(t *testing.T) {
	path := filepath.Join(folder(t), "recorder.sock")
	for range 200 {
		listen(t, path, echo)()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("after the end: %v", err)
		}
	}
}

func TestFolderOfOthers(t *testing.T) {
	for name, change := range map[string]func(string) error{
		"the group may write": func(dir string) error { return os.Chmod(dir, 0o770) },
		"all may write":       func(dir string) error { return os.Chmod(dir, 0o1777) },
		"another user's":      func(dir string) error { return os.Chown(dir, 65534, -1) },
	} {
		dir := folder(t)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "recorder.sock")
		end, err := Listen(path, echo, nil)
		if err == nil {
			end()
			t.Errorf("%s: it listens", name)
			continue
		}
		if want := dir + " must be of the user that runs serve, and nobody else may write there"; !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the socket is there: %v", name, err)
		}
	}
}

// A killed serve leaves its socket.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(folder(t), "recorder.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := ask(t, path); !errors.Is(err, ErrNone) {
		t.Errorf("asked: %v", err)
	}
	listen(t, path, echo)
	answers(t, path)
}

func TestSecondServe(t *testing.T) {
	path := filepath.Join(folder(t), "recorder.sock")
	listen(t, path, echo)
	end, err := Listen(path, http.NotFoundHandler(), nil)
	if err == nil {
		end()
		t.Fatal("a second one listens")
	}
	if want := path + ": another serve listens there"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	answers(t, path) // the first one goes on
}

// One that has no time for another connection lives.
func TestBusyServe(t *testing.T) {
	path := filepath.Join(folder(t), "recorder.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	waits, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	if end, err := Listen(path, echo, nil); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("%v", err)
		if err == nil {
			end()
		}
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// A path that was mistyped costs nobody a file.
func TestFileInTheWay(t *testing.T) {
	dir := folder(t)
	path, link := filepath.Join(dir, "notes"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(path, []byte("mine"), 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{path, link} {
		end, err := Listen(at, echo, nil)
		if err == nil {
			end()
			t.Errorf("%s: it listens", at)
		} else if want := at + " is there, and no socket"; !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if text, err := os.ReadFile(link); string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPathTooLong(t *testing.T) {
	if _, err := Listen(filepath.Join(folder(t), strings.Repeat("x", 120)), echo, nil); err == nil {
		t.Error("no error")
	}
}

func TestNobodyThere(t *testing.T) {
	dir := folder(t)
	for _, path := range []string{filepath.Join(dir, "none.sock"), filepath.Join(dir, "no", "folder.sock")} {
		if _, err := ask(t, path); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Another user comes as far as the socket, and no further.
func TestAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := folder(t)
	path, self := filepath.Join(dir, "recorder.sock"), filepath.Join(dir, "test")
	listen(t, path, echo)
	program, err := os.ReadFile("/proc/self/exe") // whose own folder may be closed to others
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		uid  uint32
		want string
	}{
		{path, 65534, "true false the flight recorder answers root alone"},
		{filepath.Join(dir, "none.sock"), 65534, "false true no flight recorder (afterfin serve) is running"},
		{path, 0, "false false <nil>"},
	} {
		cmd := exec.Command(self)
		cmd.Dir, cmd.Env = "/", []string{asks + "=" + c.path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("uid %d at %s: %v: %s, want %s", c.uid, c.path, err, got, c.want)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"an error's text": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "since is no duration", 400) },
			"ask the flight recorder: 400 Bad Request: since is no duration"},
		"not known": {http.NotFound, "ask the flight recorder: 404 Not Found: 404 page not found"},
		"another type": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"a": 1}`) },
			"ask the flight recorder: json: cannot unmarshal object into Go value of type []string"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `["a`) }, "ask the flight recorder: unexpected EOF"},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			`ask the flight recorder: Get "http://afterfin/v1/timewait?since=1m0s": EOF`},
	} {
		path := filepath.Join(folder(t), "recorder.sock")
		listen(t, path, c.h)
		_, err := ask(t, path)
		if err == nil || strings.TrimSpace(err.Error()) != c.want || errors.Is(err, ErrNone) || errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// Who asks may give up, and an end does not wait for who is asked.
func TestGivingUp(t *testing.T) {
	path := filepath.Join(folder(t), "recorder.sock")
	came, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	end := listen(t, path, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		stop func()
	}{{"who asks gives up", ctx, cancel}, {"the end", t.Context(), end}} {
		result := make(chan error, 1)
		go func() { result <- Ask(c.ctx, path, AskPorts, nil, new(any)) }()
		<-came
		c.stop()
		select {
		case err := <-result:
			if err == nil {
				t.Errorf("%s: no error", c.name)
			}
		case <-time.After(10 * time.Second): // less than patience
			t.Fatalf("%s: still waits", c.name)
		}
		<-gone
	}
}
