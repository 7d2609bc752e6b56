import { z } from 'zod'
import { durationHint, durationPattern } from '../../text/units.ts'

/** A duration as people write it; `normalise.ts` turns it into milliseconds beside the original. */
export const duration = z
  .union([z.number().min(0).max(1e10), z.string().regex(durationPattern, { error: `must be ${durationHint}` })], {
    error: `must be ${durationHint}`,
  })
  .meta({ description: 'A number of seconds, or text such as "90s", "5m", "2h", "1h30m".' })

/** Bytes as people write them; `normalise.ts` turns them into a number beside the original. */
export const size = z
  .union([z.int().min(1), z.string().regex(/^\d+(?:\.\d+)?\s*[KMGT]?(?:i?B)?$/i)], {
    error: 'must be a number of bytes, or text such as "512M" or "2G"',
  })
  .meta({ description: 'A number of bytes, or text such as "512M", "2G" (powers of 1024).' })

export const count = (max = Number.MAX_SAFE_INTEGER) => z.int().min(0).max(max)

export const rfc3339 =
  /^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt ](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/

/** Free maps that belong to a later step; their content is that step's business. */
export const freeMap = z.record(z.string(), z.unknown())

/** Text that can be a file's path. */
export const filePath = z
  .string()
  .min(1)
  .max(4096)
  .refine((p) => !p.includes('\0') && p.isWellFormed(), {
    error: 'must not contain NUL or broken Unicode: no file can have that name',
  })

/** One label of a host name (RFC 1123). */
export const LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
export const hostName = z
  .string()
  .max(253)
  .regex(new RegExp(`^${LABEL}(?:\\.${LABEL})*$`), {
    error: 'must be a host name: letters, digits, "-", parts joined by "."',
  })
