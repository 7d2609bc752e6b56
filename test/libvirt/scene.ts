// What the tests of src/libvirt define.
import { randomUUID } from 'node:crypto'

/** a guest of libvirt's test driver */
export const testDomain = (name: string, o: { uuid?: string; more?: string } = {}) =>
  `<domain type='test'><name>${name}</name><uuid>${o.uuid ?? randomUUID()}</uuid><memory unit='MiB'>8</memory><os><type>hvm</type></os>${o.more ?? ''}</domain>`

/** a real guest under QEMU without KVM: no disk; with a network its boot ROM asks that for an address */
export const qemuDomain = (name: string, o: { uuid?: string; network?: string; mac?: string } = {}) =>
  `<domain type='qemu'><name>${name}</name><uuid>${o.uuid ?? randomUUID()}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>` +
  `<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='${o.network ? 'network' : 'hd'}'/></os><features><acpi/></features>` +
  `<devices>${o.network ? `<interface type='network'>${o.mac ? `<mac address='${o.mac}'/>` : ''}<source network='${o.network}'/><model type='virtio'/></interface>` : ''}` +
  `<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>`

/** `open`: a bridge and dnsmasq without firewall rules */
export const openNetwork = (name: string, bridge: string) =>
  `<network><name>${name}</name><forward mode='open'/><bridge name='${bridge}' stp='off' delay='0'/>` +
  `<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.10' end='192.0.2.250'><lease expiry='2' unit='minutes'/></range></dhcp></ip></network>`

export const dirPool = (name: string, path: string) =>
  `<pool type='dir'><name>${name}</name><target><path>${path}</path></target></pool>`
export const qcow2Volume = (name: string, mib: number) =>
  `<volume><name>${name}</name><capacity unit='MiB'>${mib}</capacity><target><format type='qcow2'/></target></volume>`
