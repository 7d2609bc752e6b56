/** statfs magic numbers of network file systems (linux/magic.h): NFS, SMB, SMB2, CIFS, CEPH, FUSE (sshfs, gluster), 9P, AFS. */
const NETWORK = new Set([0x6969, 0x517b, 0xfe534d42, 0xff534d42, 0x00c36400, 0x65735546, 0x01021997, 0x5346414f])

/** @param type as statfs(2) gives it */
export function isNetworkType(type: number): boolean {
  return NETWORK.has(type >>> 0)
}
