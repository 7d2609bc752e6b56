import { randomInt } from 'node:crypto'
import { graphBuilder, ImageError, jsonName, progressReader, qemuImg } from '../images/index.ts'
import type { Target } from './targets.ts'
import type { ConvertHooks, ConvertPlan } from './types.ts'

/** Pieces that `sample` compares, and their size in bytes. */
const SAMPLES = 16
const PIECE = 4 * 1024 * 1024

/**
 * Compares a finished copy with its source through `qemu-img compare`: all of it, or the first, the last and random pieces between.
 * @throws {ImageError} compare-failed
 */
export async function compareCopy(plan: ConvertPlan, hooks: ConvertHooks, t: Target): Promise<void> {
  if (plan.validate.compare === 'none') return
  const size = t.disk.info.virtual_size
  const pieces = plan.validate.compare === 'full' ? [undefined] : samples(size)
  for (const [n, piece] of pieces.entries()) {
    await comparePiece(plan, hooks, t, piece, (part) =>
      hooks.progress({
        phase: 'compare',
        message: t.disk.id,
        bytes_done: Math.round((size * (n + part)) / pieces.length),
        bytes_total: size,
      }),
    )
  }
  hooks.log(
    'agent',
    `compare ${t.disk.id}: ${plan.validate.compare === 'full' ? 'identical' : `${pieces.length} pieces are identical`}\n`,
  )
}

interface Piece {
  offset: number
  size: number
}

/** One piece in each of {@link SAMPLES} equal parts; the first and the last are the disk's ends, where partition tables lie. */
function samples(size: number): Piece[] {
  const part = Math.floor(size / SAMPLES / 512) * 512
  if (part < PIECE) return [{ offset: 0, size: Math.floor(size / 512) * 512 }]
  return Array.from({ length: SAMPLES }, (_, n) => {
    const within =
      n === 0 ? 0 : n === SAMPLES - 1 ? part - PIECE : randomInt(Math.floor((part - PIECE) / 512) + 1) * 512
    return { offset: n * part + within, size: PIECE }
  })
}

async function comparePiece(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  t: Target,
  piece: Piece | undefined,
  onPart: (part: number) => void,
): Promise<void> {
  const builder = graphBuilder(plan.scratch)
  try {
    const source = await t.disk.image.node(builder)
    const copy = { driver: t.format, file: { driver: 'file', filename: t.file } }
    const cut = (node: Record<string, unknown>) => (piece ? { driver: 'raw', ...piece, file: node } : node)
    await qemuImg(['compare', '-p', jsonName(cut(source)), jsonName(cut(copy))], {
      cwd: plan.scratch,
      signal: hooks.signal,
      spawned: hooks.spawned,
      log: hooks.log,
      fds: builder.fds(),
      onStdout: progressReader((percent) => onPart(percent / 100)),
      phase: 'compare',
      what: `compare ${t.file} with its source`,
    })
  } catch (e) {
    if (!(e instanceof ImageError) || e.exit_code !== 1) throw e
    const where = piece ? ` between bytes ${piece.offset} and ${piece.offset + piece.size}` : ''
    throw new ImageError(`The copy of disk "${t.disk.id}" differs from its source${where}.`, {
      code: 'compare-failed',
      phase: 'compare',
      hint: 'The image is not published. Convert again with convert.path "qemu-img"; if that is right, this is a fault of vmspool, please report it.',
    })
  } finally {
    await builder.close()
  }
}
