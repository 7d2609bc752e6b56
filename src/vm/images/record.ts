/** The small file beside each image: `<image>.json`. What it says can be found out again from the image, but for where it came from. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { writeWhole } from './files.ts'

/** schemas/image.schema.json */
export const imageRecordSchema = z.looseObject({
  schema: z.literal(1),
  name: z.string(),
  format: z.enum(['qcow2', 'raw']),
  size_bytes: z.int().min(0),
  virtual_size_bytes: z.int().min(0),
  /** of the image file when it was put there: nobody writes to an image, so another one means that somebody did */
  mtime_ms: z.number(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  sha512: z
    .string()
    .regex(/^[0-9a-f]{128}$/)
    .optional(),
  source: z.string().optional(),
  /** validators of the server's reply */
  etag: z.string().optional(),
  last_modified: z.string().optional(),
  /** of the file that a template's path names, as it was read */
  file: z.object({ size: z.number(), mtime_ms: z.number(), ino: z.number() }).optional(),
  added_at: z.iso.datetime(),
  used_at: z.iso.datetime(),
})

export type ImageRecord = z.output<typeof imageRecordSchema>

export function recordPath(image: string): string {
  return `${image}.json`
}

/** undefined: lost, cut off, or of a later version. */
export async function readRecord(image: string): Promise<ImageRecord | undefined> {
  try {
    return imageRecordSchema.safeParse(JSON.parse(await readFile(recordPath(image), 'utf8'))).data
  } catch {
    return undefined
  }
}

export async function writeRecord(image: string, r: ImageRecord, o: { durable: boolean }): Promise<void> {
  await writeWhole(recordPath(image), `${JSON.stringify(r, null, 2)}\n`, o)
}
