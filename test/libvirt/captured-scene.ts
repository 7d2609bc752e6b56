// The names in what was captured: chosen here, so that a test knows what must come out.
export const names = {
  domain: 'guest',
  domain_uuid: '6ba7b810-9dad-11d1-80b4-00c04fd430c8',
  mac: '52:54:00:12:34:56',
  network: 'lan',
  network_uuid: '6ba7b811-9dad-11d1-80b4-00c04fd430c8',
  pool: 'store',
  pool_uuid: '6ba7b812-9dad-11d1-80b4-00c04fd430c8',
  volume: 'disk.raw',
  namespace: 'urn:captured',
} as const

export const xml = {
  /** `open`: a bridge and dnsmasq, but no firewall rules; the only one that has this address is its dnsmasq */
  network: `<network><name>${names.network}</name><uuid>${names.network_uuid}</uuid><forward mode='open'/><bridge name='vbr-lan' stp='off' delay='0'/><mac address='52:54:00:00:00:01'/><ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.10' end='192.0.2.20'/></dhcp></ip></network>`,
  domain: `<domain type='qemu'><name>${names.domain}</name><uuid>${names.domain_uuid}</uuid><title>A guest</title><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/><bios useserial='yes'/></os><features><acpi/></features><on_poweroff>destroy</on_poweroff><devices><controller type='usb' model='qemu-xhci'/><interface type='network'><mac address='${names.mac}'/><source network='${names.network}'/><model type='virtio'/></interface><serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel><memballoon model='virtio'/></devices></domain>`,
  usb: `<input type='tablet' bus='usb'><alias name='ua-tablet'/></input>`,
  test: `<domain type='test'><name>${names.domain}</name><uuid>${names.domain_uuid}</uuid><memory unit='MiB'>8</memory><os><type>hvm</type></os></domain>`,
  pool: (path: string) =>
    `<pool type='dir'><name>${names.pool}</name><uuid>${names.pool_uuid}</uuid><target><path>${path}</path></target></pool>`,
  volume: (name: string) =>
    `<volume><name>${name}</name><capacity unit='MiB'>1</capacity><target><format type='raw'/></target></volume>`,
}
