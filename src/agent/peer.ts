/** Who is at the other end of a control connection. Node cannot ask the kernel (SO_PEERCRED, unix(7)); perl, which gets the connection, can. */
import { spawn } from 'node:child_process'
import type { Socket } from 'node:net'

export interface Peer {
  /** as they were when it connected */
  pid: number
  uid: number
  gid: number
}

const SOL_SOCKET = 1
const SO_PEERCRED = 17
const script = `open my $s, '+<&=', 3 or exit 1; print join ' ', unpack 'l3', getsockopt($s, ${SOL_SOCKET}, ${SO_PEERCRED}) // exit 1`

/** Undefined where it cannot be found out: without perl, or for a client that has gone. */
export function peerOf(connection: Socket): Promise<Peer | undefined> {
  return new Promise((resolve) => {
    let said = ''
    const child = spawn('/usr/bin/perl', ['-e', script], { stdio: ['ignore', 'pipe', 'ignore', connection], env: {} })
    child.on('error', () => resolve(undefined))
    child.stdout?.on('data', (d: Buffer) => {
      said += d.toString()
    })
    child.on('close', () => {
      const [pid, uid, gid] = said.split(' ').map(Number)
      resolve(
        said !== '' && pid !== undefined && uid !== undefined && gid !== undefined ? { pid, uid, gid } : undefined,
      )
    })
  })
}
