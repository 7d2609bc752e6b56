import type { z } from 'zod'

/** Looking into zod schemas: only what `prepare.ts` needs to walk a manifest beside its schema. */

interface Def {
  type: string
  innerType?: z.ZodType
  element?: z.ZodType
  valueType?: z.ZodType
}
const defOf = (schema: z.ZodType) => schema.def as unknown as Def

/** The schema without optional and default, and whether the value may be left out. */
export function unwrap(schema: z.ZodType): { schema: z.ZodType; optional: boolean } {
  let optional = false
  let inner = schema
  for (;;) {
    const def = defOf(inner)
    if ((def.type === 'optional' || def.type === 'default' || def.type === 'nullable') && def.innerType) {
      optional = true
      inner = def.innerType
    } else return { schema: inner, optional }
  }
}

export const typeOf = (schema: z.ZodType): string => defOf(schema).type

export function shapeOf(schema: z.ZodType): Record<string, z.ZodType> | undefined {
  return typeOf(schema) === 'object' ? (schema as unknown as { shape: Record<string, z.ZodType> }).shape : undefined
}

export function elementOf(schema: z.ZodType): z.ZodType | undefined {
  return typeOf(schema) === 'array' ? defOf(schema).element : undefined
}

export function valueTypeOf(schema: z.ZodType): z.ZodType | undefined {
  return typeOf(schema) === 'record' ? defOf(schema).valueType : undefined
}
