// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile is the most that is read of a file: larger ones tell no names.
const maxFile = 1 << 20

// maxName is longer than any name that the runtimes and Kubernetes allow.
const maxName = 253

// source is where a runtime keeps the names of its containers.
type source struct {
	runtime string
	name    func(*finder, string) (Container, bool)
}

var sources = []source{
	{"docker", (*finder).docker},
	{"containerd", (*finder).containerd},
	{"cri-o", (*finder).crio},
	{"podman", (*finder).podman},
}

// named fills in what is on disk about a container, and its runtime if the cgroup
// did not tell it. Rootless containers have their files elsewhere.
func (f *finder) named(c Container) Container {
	if c.ID == "" {
		return c
	}
	for _, s := range sources {
		if c.Runtime != "" && c.Runtime != s.runtime {
			continue
		}
		if names, ok := s.name(f, c.ID); ok {
			return Container{s.runtime, c.ID, sane(names.Name), sane(names.Pod), sane(names.Namespace)}
		}
	}
	return c
}

// sane drops what cannot be a name.
func sane(name string) string {
	if len(name) > maxName {
		return ""
	}
	return name
}

func (f *finder) docker(id string) (Container, bool) {
	var config struct {
		Name   string
		Config struct{ Labels map[string]string }
	}
	ok := f.readJSON(&config, "var/lib/docker/containers", id, "config.v2.json")
	c := Container{Name: strings.TrimPrefix(config.Name, "/")}
	// Kubernetes makes a name of many parts, and says in labels what they are.
	if labels := config.Config.Labels; labels["io.kubernetes.pod.name"] != "" {
		c = kubernetes(labels)
	}
	return c, ok
}

func (f *finder) containerd(id string) (Container, bool) {
	annotations, ok := f.annotations("run/containerd/io.containerd.runtime.v2.task/k8s.io", id, "config.json")
	return Container{
		Name:      annotations["io.kubernetes.cri.container-name"],
		Pod:       annotations["io.kubernetes.cri.sandbox-name"],
		Namespace: annotations["io.kubernetes.cri.sandbox-namespace"],
	}, ok
}

func (f *finder) crio(id string) (Container, bool) {
	annotations, ok := f.annotations("run/containers/storage/overlay-containers", id, "userdata/config.json")
	// podman keeps its own there, too, without these.
	c := kubernetes(annotations)
	return c, ok && c.Pod != ""
}

// kubernetes reads the labels that a kubelet gives to each container.
func kubernetes(labels map[string]string) Container {
	return Container{
		Name:      labels["io.kubernetes.container.name"],
		Pod:       labels["io.kubernetes.pod.name"],
		Namespace: labels["io.kubernetes.pod.namespace"],
	}
}

func (f *finder) podman(id string) (Container, bool) {
	var all []struct {
		ID    string
		Names []string
	}
	if !f.readJSON(&all, "var/lib/containers/storage/overlay-containers/containers.json") {
		return Container{}, false
	}
	for _, c := range all {
		if c.ID == id && len(c.Names) > 0 {
			return Container{Name: c.Names[0]}, true
		}
	}
	return Container{}, false
}

// annotations reads those of an OCI runtime specification.
func (f *finder) annotations(path ...string) (map[string]string, bool) {
	var spec struct{ Annotations map[string]string }
	ok := f.readJSON(&spec, path...)
	return spec.Annotations, ok
}

// readJSON reads a file below root. It is false for one that is missing, may not
// be read, is no plain file, is too large or is not what it should be.
func (f *finder) readJSON(into any, path ...string) bool {
	// O_NONBLOCK: a named pipe would block.
	name := filepath.Join(slices.Concat([]string{f.root}, path)...)
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	return err == nil && len(text) <= maxFile && json.Unmarshal(text, into) == nil
}
