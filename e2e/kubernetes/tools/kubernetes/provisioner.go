package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// provisionerName is what a StorageClass names to get its volumes from here.
const provisionerName = "greptimecluster.io/lab"

// claimedBy is the annotation by which the volume controller asks an external
// provisioner for a volume. With WaitForFirstConsumer it comes after the
// scheduler has chosen a node.
const claimedBy = "volume.kubernetes.io/storage-provisioner"

// selectedNode is the node on which the scheduler wants to place the first pod
// that uses the claim.
const selectedNode = "volume.kubernetes.io/selected-node"

// provisioner makes a directory for each claim, on the disk of the node on which
// it is first used. The nodes see each other's disks, so by default a volume
// follows its pod to any node, like network storage. A class with the parameter
// `placement: node` ties each volume to the node on which it was first used, like a
// local disk.
//
// Its volumes are of the kind `local`, not `hostPath`: of the two only `local`
// honours a pod's fsGroup, as the block storage of a real cluster does. A pod
// that forgets its fsGroup fails here as it would there.
type provisioner struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	dir     string
}

func newProvisionerCommand() *cobra.Command {
	var kubeconfig, dir string
	cmd := &cobra.Command{
		Use:  "volume-provisioner",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return runProvisioner(genericapiserver.SetupSignalContext(), kubeconfig, dir)
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "file with the API server's address and our certificate")
	cmd.Flags().StringVar(&dir, "dir", "", "directory that holds the volumes")
	return cmd
}

func runProvisioner(ctx context.Context, kubeconfig, dir string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 300, 600
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 10*time.Second)
	p := &provisioner{
		client:  client,
		claims:  factory.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: factory.Core().V1().PersistentVolumes().Lister(),
		classes: factory.Storage().V1().StorageClasses().Lister(),
		dir:     dir,
	}
	// Every event leads to one look at everything: with tens of claims that is
	// cheap, and there is no queue to get out of step.
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { poke() },
		UpdateFunc: func(any, any) { poke() },
		DeleteFunc: func(any) { poke() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().PersistentVolumeClaims().Informer(),
		factory.Core().V1().PersistentVolumes().Informer(),
		factory.Storage().V1().StorageClasses().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		select {
		case <-changed:
			p.sync(ctx)
		case <-ctx.Done():
		}
	}, 20*time.Millisecond)
	return nil
}

func (p *provisioner) sync(ctx context.Context) {
	claims, _ := p.claims.List(labels.Everything())
	for _, claim := range claims {
		if err := p.provision(ctx, claim); err != nil {
			klog.ErrorS(err, "no volume made", "claim", klog.KObj(claim))
		}
	}
	volumes, _ := p.volumes.List(labels.Everything())
	for _, volume := range volumes {
		if err := p.reclaim(ctx, volume); err != nil {
			klog.ErrorS(err, "volume not deleted", "volume", volume.Name)
		}
	}
}

func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Annotations[claimedBy] != provisionerName || claim.Spec.VolumeName != "" ||
		claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	if _, err := p.volumes.Get(name); err == nil {
		return nil
	}
	class, err := p.classes.Get(*claim.Spec.StorageClassName)
	if err != nil {
		return err
	}
	path := filepath.Join(p.dir, claim.Annotations[selectedNode], name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, volumeFor(claim, class, name, path), metav1.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, name, path string) *corev1.PersistentVolume {
	reclaim := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisionerName},
		},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: reclaim,
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			StorageClassName:              class.Name,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{whereItIs(claim, class)},
				}},
			}},
		},
	}
}

func whereItIs(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) corev1.NodeSelectorRequirement {
	node := claim.Annotations[selectedNode]
	if class.Parameters["placement"] == "node" && node != "" {
		return corev1.NodeSelectorRequirement{
			Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}
	}
	return corev1.NodeSelectorRequirement{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpExists}
}

func (p *provisioner) reclaim(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisionerName ||
		volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete ||
		volume.Spec.Local == nil {
		return nil
	}
	path := volume.Spec.Local.Path
	if inside, err := filepath.Rel(p.dir, path); err != nil || !filepath.IsLocal(inside) || filepath.Base(path) != volume.Name {
		return fmt.Errorf("path %s is no volume's in %s", path, p.dir)
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}
