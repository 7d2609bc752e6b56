/**
 * The control socket of an agent: one JSON request, one JSON reply (the protocol of hyper2kvm's daemon: contract A6).
 * The socket lies in /run/vmspool/<instance>/ or $XDG_RUNTIME_DIR; `<output>/.daemon/control.sock` links to it, so that
 * whoever knows the output finds it. It belongs to the host the agent runs on.
 */
import { readlink } from 'node:fs/promises'
import { connect } from 'node:net'
import { isAbsolute, join } from 'node:path'
import { startCommand } from '../spool/start-command.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'

export type ControlCommand = 'status' | 'stats' | 'pause' | 'resume' | 'reload' | 'drain' | 'stop'

export interface ControlReply {
  status: 'ok' | 'error'
  message?: string
  [more: string]: unknown
}

async function socketPath(place: Place): Promise<string> {
  const link = join(place.layout.daemon, 'control.sock')
  try {
    const target = await readlink(link)
    // Node cuts socket paths after 107 bytes without a word, so the short target is used, not the link.
    return isAbsolute(target) ? target : join(place.layout.daemon, target)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EINVAL') return link
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new ClientError(
        69,
        `No agent of the instance "${place.instance}" has run here: ${link} does not exist. Start one with: ${startCommand(place.layout)}`,
        { cause: error },
      )
    }
    throw error
  }
}

/**
 * Sends one command and returns the reply.
 * @throws ClientError 69 when no agent answers, 77 when the socket may not be used, 75 when it does not answer in time
 */
export async function control(
  place: Place,
  command: ControlCommand,
  o: { timeoutMs?: number } = {},
): Promise<ControlReply> {
  const path = await socketPath(place)
  const text = await exchange(place, path, JSON.stringify({ command }), o.timeoutMs ?? 5000)
  try {
    return JSON.parse(text) as ControlReply
  } catch (error) {
    throw new ClientError(
      74,
      `The agent of "${place.instance}" answered "${command}" with something that is no JSON (${text.length} bytes).`,
      {
        cause: error,
      },
    )
  }
}

function exchange(place: Place, path: string, request: string, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const socket = connect(path)
    const timer = setTimeout(() => {
      socket.destroy()
      reject(
        new ClientError(
          75,
          `The agent of "${place.instance}" did not answer within ${timeoutMs} ms at ${path}. It may be stopped or busy: try again, or look at its log.`,
        ),
      )
    }, timeoutMs)
    socket.on('connect', () => socket.write(`${request}\n`))
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      reject(connectError(place, path, error))
    })
    socket.on('close', () => {
      clearTimeout(timer)
      resolve(Buffer.concat(chunks).toString('utf8'))
    })
  })
}

function connectError(place: Place, path: string, error: NodeJS.ErrnoException): Error {
  if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') {
    return new ClientError(
      69,
      `No agent of the instance "${place.instance}" is listening on this host (${path}: ${error.code}). ` +
        `Start one with: ${startCommand(place.layout)}`,
      { cause: error },
    )
  }
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    return new ClientError(
      77,
      `The control socket ${path} may not be used by this user (${error.code}). It is open to the agent's user and group only.`,
      {
        cause: error,
      },
    )
  }
  return new ClientError(74, `The control socket ${path} failed: ${error.message}.`, { cause: error })
}
