// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	dockerFile     = "var/lib/docker/containers/" + id + "/config.v2.json"
	containerdFile = "run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id + "/config.json"
	crioFile       = "run/containers/storage/overlay-containers/" + id + "/userdata/config.json"
	podmanFile     = "var/lib/containers/storage/overlay-containers/containers.json"
)

func TestNamed(t *testing.T) {
	for _, c := range []struct {
		name, runtime, file, text string
		want                      Container
	}{
		{"docker", "docker", dockerFile, `{"ID":"x","Name":"/web-1","Config":{"Labels":{}}}`, Container{"docker", id, "web-1", "", ""}},
		{"docker in Kubernetes", "docker", dockerFile, `{"Name":"/k8s_web_web-1_shop_uid_0","Config":{"Labels":{
			"io.kubernetes.container.name":"web","io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"shop"}}}`,
			Container{"docker", id, "web", "web-1", "shop"}},
		{"containerd", "containerd", containerdFile, `{"ociVersion":"1.1","annotations":{"io.kubernetes.cri.container-name":"web",
			"io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop"}}`,
			Container{"containerd", id, "web", "web-1", "shop"}},
		{"sandbox", "containerd", containerdFile, `{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
			"io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop"}}`,
			Container{"containerd", id, "", "web-1", "shop"}},
		{"cri-o", "cri-o", crioFile, `{"annotations":{"io.kubernetes.container.name":"web",
			"io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"shop"}}`, Container{"cri-o", id, "web", "web-1", "shop"}},
		{"podman", "podman", podmanFile, `[{"id":"` + inner + `","names":["other"]},{"id":"` + id + `","names":["web","alias"],"metadata":"{}"}]`,
			Container{"podman", id, "web", "", ""}},
		{"the file tells the runtime", "", containerdFile, `{"annotations":{"io.kubernetes.cri.container-name":"web"}}`,
			Container{"containerd", id, "web", "", ""}},
		{"the file tells podman", "", podmanFile, `[{"id":"` + id + `","names":["web"]}]`, Container{"podman", id, "web", "", ""}},
		{"podman's own config", "", crioFile, `{"annotations":{"io.container.manager":"libpod"}}`, Container{ID: id}},
		{"another runtime's file", "docker", podmanFile, `[{"id":"` + id + `","names":["web"]}]`, Container{Runtime: "docker", ID: id}},
		{"podman without names", "podman", podmanFile, `[{"id":"` + id + `","names":null},null]`, Container{Runtime: "podman", ID: id}},

		{"no file", "docker", "x", "", Container{Runtime: "docker", ID: id}},
		{"empty", "docker", dockerFile, "", Container{Runtime: "docker", ID: id}},
		{"no JSON", "docker", dockerFile, "\x00\xff{", Container{Runtime: "docker", ID: id}},
		{"other types", "docker", dockerFile, `{"Name":7,"Config":[]}`, Container{Runtime: "docker", ID: id}},
		{"null", "docker", dockerFile, `null`, Container{Runtime: "docker", ID: id}},
		{"no list", "podman", podmanFile, `{"id":"` + id + `"}`, Container{Runtime: "podman", ID: id}},
		{"deep", "cri-o", crioFile, strings.Repeat("[", 200000), Container{Runtime: "cri-o", ID: id}},
		{"too large", "docker", dockerFile, `{"Name":"/web"}` + strings.Repeat(" ", maxFile), Container{Runtime: "docker", ID: id}},
		{"just not too large", "docker", dockerFile, `{"Name":"/web"}` + strings.Repeat(" ", maxFile-15), Container{"docker", id, "web", "", ""}},
		{"name too long", "docker", dockerFile, `{"Name":"/` + strings.Repeat("a", maxName+1) + `"}`, Container{Runtime: "docker", ID: id}},
	} {
		f := newFinder("/proc", tree(t, map[string]string{c.file: c.text}))
		if got := f.named(Container{Runtime: c.runtime, ID: id}); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if got := f.named(Container{}); got != (Container{}) {
			t.Errorf("%s: no container is %+v", c.name, got)
		}
	}
}

// What is no plain file is not opened for long, or at all.
func TestNamedSpecialFiles(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, dockerFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	want := Container{Runtime: "docker", ID: id}
	for name, make := range map[string]func() error{
		"pipe":   func() error { return unix.Mkfifo(path, 0o600) },
		"folder": func() error { return os.Mkdir(path, 0o700) },
		"loop":   func() error { return os.Symlink(path, path) },
		"device": func() error { return os.Symlink("/dev/zero", path) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if got := newFinder("/proc", root).named(want); got != want {
			t.Errorf("%s: %+v", name, got)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
